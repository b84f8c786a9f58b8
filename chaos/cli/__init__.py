"""The command line of ``python -m chaos``."""
