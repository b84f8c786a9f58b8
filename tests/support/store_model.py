"""The expected state of a task according to the lifecycle, without SQL or a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from holdfast.model.lifecycle import Counters, Reason, State, after_attempt, epoch_step, is_legal
from holdfast.model.task import TaskStory

# The event nearest to state_since must be the last one that changed the state.
STATE_SINCE_OF_ANOTHER_EVENT = """
SELECT count(*) FROM tasks t, LATERAL (
  SELECT e.seq FROM task_events e WHERE e.task_id = t.id
  ORDER BY abs(EXTRACT(EPOCH FROM e.at - t.state_since)) LIMIT 1) nearest
WHERE nearest.seq <> (
  SELECT max(e.seq) FROM task_events e
  WHERE e.task_id = t.id AND e.from_state IS DISTINCT FROM e.to_state)"""

MAKE_OLD = """UPDATE tasks SET claimed_at = claimed_at - interval '10 days'
WHERE id = '{}' RETURNING claimed_at"""


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

    def compare(self, story: TaskStory) -> None:
        """Check that the stored task is as expected."""
        row = story.task
        assert (row.state, row.epoch, row.attempt) == (self.state, self.epoch, self.attempt)
        assert (row.losses, row.handed_back) == (self.losses, self.handed_back)
        assert (row.max_attempts, row.max_losses) == (self.max_attempts, self.max_losses)
        assert row.worker_id == self.owner
        assert row.cancel_requested == self.cancel_requested
        assert [(e.from_state, e.to_state, e.reason) for e in story.events] == self.events
        assert [e.seq for e in story.events] == list(range(1, len(self.events) + 1))
        assert (story.effect is not None) == (self.effects == 1) == (row.state is State.SUCCEEDED)
