"""The handlers of the workload, one module per kind of effect: what workers get as ``--app``."""
