"""What may go wrong, by what the caller may do next.

HoldfastError
+-- Unavailable       nothing was done: try again later
+-- OutcomeUnknown    may be done, or be done later: send the same guarded statement again
+-- Unstorable        Postgres can never store this value: change it
+-- TaskLost          the attempt belongs to nobody or somebody else: stop, write nothing
+-- Misconfigured     this process cannot run like this: an operator must act
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose."""


class Unavailable(HoldfastError):
    """A server could not be reached; the statement was never sent, nothing was done."""


class OutcomeUnknown(HoldfastError):
    """The reply was lost: the statement may have taken effect, or may still do so."""


class Unstorable(HoldfastError):
    """Postgres refused the value itself (SQLSTATE class 22, 23 or 54)."""


class TaskLost(HoldfastError):
    """This attempt's lease was lost; nothing it writes is accepted any more."""


class Misconfigured(HoldfastError):
    """The process cannot start with these settings or this database; the message says why."""
