"""What may go wrong, by what the caller may do next.

HoldfastError
+-- Unavailable       nothing was done: try again later
+-- OutcomeUnknown    may be done, or be done later: send the same guarded statement again
+-- Unstorable        Postgres can never store this value: change it
+-- TaskLost          the attempt is no longer owned here: stop, write nothing
+-- Misconfigured     this process cannot run like this: an operator must act
"""

from __future__ import annotations

from holdfast.telemetry.event_names import ErrorCode


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose.

    ``code`` is logged as ``error_code``: programs recognise the error by it, never by its text.
    """

    code = ErrorCode.OTHER

    def __init__(self, *args: object, code: ErrorCode | None = None) -> None:
        super().__init__(*args)
        if code is not None:
            self.code = code


class Unavailable(HoldfastError):
    """A server could not be reached; the statement was never sent, nothing was done."""

    code = ErrorCode.UNAVAILABLE


class OutcomeUnknown(HoldfastError):
    """The reply was lost: the statement may have taken effect, or may still do so."""

    code = ErrorCode.OUTCOME_UNKNOWN


class Unstorable(HoldfastError):
    """Postgres refused the value itself (SQLSTATE class 22, 23 or 54)."""

    code = ErrorCode.UNSTORABLE


class TaskLost(HoldfastError):
    """This attempt's lease was lost; nothing it writes is accepted any more."""

    code = ErrorCode.TASK_LOST


class Misconfigured(HoldfastError):
    """The process cannot start with these settings or this database; the message says why."""

    code = ErrorCode.MISCONFIGURED
