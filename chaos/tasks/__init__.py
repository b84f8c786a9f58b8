"""The handlers of the workload, one module per kind of effect; workers load them with ``--app``."""
