"""The scheduler process: dispatch, failure detection, sweeps, retention."""
