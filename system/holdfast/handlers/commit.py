"""The state of an attempt's ``ctx.transaction()``: at most one COMMIT may succeed."""

from __future__ import annotations

from enum import Enum, auto

from holdfast.instrumentation.attempt_span import AttemptSpan
from holdfast.model.claim import AttemptRef


class _State(Enum):
    NONE = auto()
    OPEN = auto()
    COMMITTED = auto()
    UNKNOWN = auto()


class Commit:
    """The state machine of an attempt's transactions.

    The fence distinguishes attempts, not transactions, so it would accept a second COMMIT.
    """

    def __init__(self, attempt: AttemptRef, span: AttemptSpan | None = None) -> None:
        """``span``: that of the attempt, None if not sampled."""
        self.attempt = attempt
        self.span = span
        self._state = _State.NONE

    @property
    def committed(self) -> bool:
        """Whether the COMMIT was applied: the task is SUCCEEDED permanently."""
        return self._state is _State.COMMITTED

    @property
    def unknown(self) -> bool:
        """Whether a COMMIT was sent but not answered: the worker must settle it."""
        return self._state is _State.UNKNOWN

    def begin(self) -> None:
        """Open the transaction.

        Raises:
            RuntimeError: another one is open, was committed or has an unknown outcome.
        """
        if self._state is _State.OPEN:
            raise RuntimeError("this attempt already has a ctx.transaction() open: use that one")
        if self._state is _State.COMMITTED:
            raise RuntimeError(
                "ctx.transaction() has committed and the task is SUCCEEDED: "
                "put all SQL of a task into one transaction"
            )
        if self._state is _State.UNKNOWN:
            raise RuntimeError(
                "the COMMIT of this attempt's transaction has an unknown outcome: let "
                "OutcomeUnknown reach the worker, which settles it"
            )
        self._state = _State.OPEN

    def sent(self) -> None:
        """Record that COMMIT is about to be sent: its outcome is unknown until it is answered."""
        self._state = _State.UNKNOWN

    def applied(self) -> None:
        """Record that COMMIT succeeded."""
        self._state = _State.COMMITTED

    def refused(self) -> None:
        """Record that COMMIT failed, for example on a deferred constraint."""
        self._state = _State.OPEN

    def end(self) -> None:
        """Leave the block; after a rollback another transaction may begin."""
        if self._state is _State.OPEN:
            self._state = _State.NONE
