"""The state of an attempt's ``ctx.transaction()``: at most one COMMIT may ever be sent."""

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
    """Which attempt a transaction is of, and how far it has come.

    The fence tells attempts apart, not transactions, so a second COMMIT of one attempt would pass.
    """

    def __init__(self, attempt: AttemptRef, span: AttemptSpan | None = None) -> None:
        """``span``: of the attempt, None where none is recorded."""
        self.attempt = attempt
        self.span = span
        self._state = _State.NONE

    @property
    def committed(self) -> bool:
        """Whether the COMMIT was applied: the task is SUCCEEDED and nothing can undo it."""
        return self._state is _State.COMMITTED

    @property
    def unknown(self) -> bool:
        """Whether a COMMIT was sent and its reply lost: the worker must settle it."""
        return self._state is _State.UNKNOWN

    def begin(self) -> None:
        """Open the transaction.

        Raises:
            RuntimeError: one is open already, was committed or has an unknown outcome.
        """
        if self._state is _State.OPEN:
            raise RuntimeError("this attempt already has a ctx.transaction() open: use that one")
        if self._state is _State.COMMITTED:
            raise RuntimeError(
                "ctx.transaction() has committed and the task is SUCCEEDED: nothing can be added; "
                "put all SQL of a task into one transaction"
            )
        if self._state is _State.UNKNOWN:
            raise RuntimeError(
                "the COMMIT of this attempt's transaction has an unknown outcome: let "
                "OutcomeUnknown reach the worker, which settles it"
            )
        self._state = _State.OPEN

    def sent(self) -> None:
        """COMMIT is about to be sent; its outcome is unknown until it is answered."""
        self._state = _State.UNKNOWN

    def applied(self) -> None:
        """COMMIT was answered with success."""
        self._state = _State.COMMITTED

    def refused(self) -> None:
        """COMMIT was answered with an error, for example by a deferred constraint."""
        self._state = _State.OPEN

    def end(self) -> None:
        """Leave the block; a transaction that was rolled back allows another one."""
        if self._state is _State.OPEN:
            self._state = _State.NONE
