"""The base of all errors that the command line reports without a traceback."""


class ChaosError(Exception):
    """An error that the user can act on; the message says how."""
