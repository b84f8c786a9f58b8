"""Errors, classified by what the caller may do next.

HoldfastError
+-- Unavailable       nothing was done: retry later
|   +-- StatementCancelled   it took longer than Postgres allows: send less at once
+-- OutcomeUnknown    may have taken effect, or may yet: resend the same guarded statement
+-- Unstorable        Postgres can never store this value: change it
+-- UnknownQueue      no worker ever read this queue: name another, or make it known
+-- TaskLost          this worker no longer owns the attempt: stop, write nothing
+-- Misconfigured     the process cannot run with this configuration: an operator must fix it
"""

from __future__ import annotations

from holdfast.telemetry.event_names import ErrorCode


class HoldfastError(Exception):
    """Base of every error that Holdfast raises deliberately.

    ``code`` is logged as ``error_code``: programs match the code, never the text.
    """

    code = ErrorCode.OTHER

    def __init__(self, *args: object, code: ErrorCode | None = None) -> None:
        super().__init__(*args)
        if code is not None:
            self.code = code


class Unavailable(HoldfastError):
    """A server could not be reached, or refused: nothing was done."""

    code = ErrorCode.UNAVAILABLE


class StatementCancelled(Unavailable):
    """Postgres cancelled and rolled back the statement (``statement_timeout``, an operator)."""


class OutcomeUnknown(HoldfastError):
    """The reply was lost: the statement may have taken effect, or may do so later."""

    code = ErrorCode.OUTCOME_UNKNOWN


class Unstorable(HoldfastError):
    """Postgres refused the value itself (SQLSTATE class 22, 23 or 54)."""

    code = ErrorCode.UNSTORABLE


class UnknownQueue(HoldfastError):
    """No worker or setting has announced this queue; a task in it might never run."""

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"the queue {queue!r} is unknown: no worker has read it. Start a worker with it in "
            "HOLDFAST_QUEUES, or name it in HOLDFAST_KNOWN_QUEUES of the schedulers and APIs"
        )
        self.queue = queue


class TaskLost(HoldfastError):
    """The attempt's lease was lost; none of its writes is accepted."""

    code = ErrorCode.TASK_LOST


class Misconfigured(HoldfastError):
    """The process cannot run with these settings or this database; the message says why."""

    code = ErrorCode.MISCONFIGURED
