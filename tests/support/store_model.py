"""The expected state of a task according to the lifecycle, without SQL or a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from holdfast.model.lifecycle import Counters, Reason, State, after_attempt, epoch_step, is_legal


@dataclass
class Model:
    """The expected state of one task."""

    max_attempts: int
    state: State = State.SCHEDULED
    epoch: int = 0
    attempt: int = 0
    losses: int = 0
    handed_back: int = 0
    unhandled: int = 0
    max_losses: int = 2
    cancel_requested: bool = False
    owner: UUID | None = None
    effects: int = 0
    events: list[tuple[State | None, State, Reason]] = field(
        default_factory=lambda: [(None, State.SCHEDULED, Reason.SUBMITTED)]
    )

    def move(self, target: State, reason: Reason) -> None:
        assert is_legal(self.state, target, reason)
        self.events.append((self.state, target, reason))
        self.epoch += epoch_step(self.state, target)
        self.state = target
        if target is not State.RUNNING:
            self.owner = None

    def end(self, reason: Reason) -> None:
        self.losses += reason is Reason.LOST
        self.handed_back += reason is Reason.RELEASED
        target = after_attempt(self.counters, reason, cancel_requested=self.cancel_requested)
        self.effects += target is State.SUCCEEDED
        self.move(target, reason)

    @property
    def counters(self) -> Counters:
        return Counters(
            self.attempt, self.losses, self.handed_back, self.max_attempts, self.max_losses
        )
