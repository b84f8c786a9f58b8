"""The errors that the command line reports without a traceback."""


class ChaosError(Exception):
    """An error that the user can act on; the message says how."""


class EdgeRefused(ChaosError):
    """The harness would use the edge of an actor, which only the probe of a fault may."""
