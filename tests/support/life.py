"""The life of a task in a history that is written step by step (``specimen``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from shown import attempts_of
from testimonies import SEEN_LATER, TIMEOUT_SECONDS, TOLD

from chaos.history.records import (
    Effect,
    Event,
    SinkCall,
    SqlEffect,
    StaleWrite,
    TaskRow,
)
from chaos.tasks.declarations import DECLARATIONS, SINK_RETRY_SECONDS
from chaos.tasks.steps import does, step_of
from holdfast.model.lifecycle import (
    TERMINAL,
    Counters,
    Reason,
    State,
    after_attempt,
    epoch_step,
    is_legal,
)

if TYPE_CHECKING:
    from specimen import Specimen

GRACE_SECONDS = 0.5
SETTINGS = {"timeout_grace_seconds": GRACE_SECONDS, "worker_concurrency": 100}
EPOCH = datetime(2026, 1, 9, 10, tzinfo=UTC)
STEP_SECONDS = 0.01
ALLOWED_SECONDS = 20.0

# The fields of an event that the API shows as they are.
_SHOWN = ("seq", "at", "from_state", "to_state", "epoch", "attempt", "actor")


def instant(seconds: float) -> str:
    """Convert arena seconds to an instant of the database."""
    return (EPOCH + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Life:
    """One task. Each method is a step that the system could take, and returns the task."""

    run: Specimen
    task_id: str
    asked: dict[str, Any]
    run_at: str
    max_attempts: int
    state: State | None = None
    epoch: int = 0
    seq: int = 0
    attempt: int = 0
    losses: int = 0
    handed_back: int = 0
    max_losses: int = 3
    cancel_requested: bool = False
    owner: str = ""
    called_out: bool = False
    created_at: str = ""
    finished_at: str | None = None
    due: float = 0.0  # arena seconds
    failures: int = 0
    claimed_by: dict[int, str] = field(default_factory=dict)  # epoch -> incarnation
    attempts: dict[int, int] = field(default_factory=dict)  # epoch -> attempt
    lost: list[int] = field(default_factory=list)  # epochs

    def step(
        self, target: State, reason: Reason, actor: str, detail: dict[str, Any] | None = None
    ) -> Self:
        """Add a transition with its event.

        Raises:
            ValueError: the lifecycle does not allow the transition.
        """
        if not is_legal(self.state, target, reason):
            raise ValueError(f"{self.state} -> {target} ({reason})")
        source, self.state = self.state, target
        self.epoch += epoch_step(source, target)
        self.seq += 1
        at = instant(self.run.tick())
        self.created_at = self.created_at or at
        self.cancel_requested |= target is State.CANCELLED and reason is Reason.CANCELLED
        self.finished_at = at if target in TERMINAL else None
        self.run.records.append(
            Event(
                task_id=self.task_id,
                seq=self.seq,
                at=at,
                from_state=source,
                to_state=target,
                epoch=self.epoch,
                attempt=self.attempt,
                actor=actor,
                reason=reason,
                detail=detail,
            )
        )
        return self

    @property
    def poison(self) -> bool:
        """Whether its handler kills its worker."""
        return does(self.asked["payload"], 1) == "kill"

    def tell(self, step: dict[str, Any]) -> Self:
        """Tell the handler what to do in this attempt, unless its payload says so already."""
        steps = self.asked["payload"]["steps"]
        steps += [{} for _ in range(self.attempt - len(steps))]
        steps[self.attempt - 1] = steps[self.attempt - 1] or step
        return self

    def dispatch(self, label: str = "scheduler-1") -> Self:
        """Add the dispatch, at the earliest when the task is due."""
        self.run.now = max(self.run.now, round(self.due - STEP_SECONDS, 6))
        return self.step(State.QUEUED, Reason.DISPATCHED, f"scheduler:{label}")

    def republish(self) -> Self:
        return self.step(State.QUEUED, Reason.REPUBLISHED, "scheduler:scheduler-2")

    def claim(self, label: str = "worker-1") -> Self:
        incarnation = self.run.living(label)
        self.owner = f"worker:{incarnation}"
        self.attempt += 1
        self.step(State.RUNNING, Reason.CLAIMED, self.owner)
        self.claimed_by[self.epoch] = incarnation
        self.attempts[self.epoch] = self.attempt
        return self

    def call_out(self) -> Self:
        """Add a call to the sink, which applies only the first."""
        self.run.records.append(
            SinkCall(
                at=self.run.tick(),
                key=self.task_id,
                task_id=self.task_id,
                epoch=self.epoch,
                applied=not self.called_out,
                seen=SEEN_LATER,
            )
        )
        self.called_out = True
        return self

    def succeed(self) -> Self:
        if self.asked["effect"] == "external":
            self.call_out()
        self.step(State.SUCCEEDED, Reason.SUCCEEDED, self.owner)
        at = instant(self.run.now)
        self.run.records.append(
            Effect(
                effect_key=self.task_id,
                task_id=self.task_id,
                epoch=self.epoch,
                attempt=self.attempt,
                at=at,
                result=SEEN_LATER,
            )
        )
        if self.asked["effect"] == "sql":
            self.run.records.append(
                SqlEffect(
                    task_id=self.task_id,
                    epoch=self.epoch - 1,
                    attempt=self.attempt,
                    at=at,
                    seen=SEEN_LATER,
                )
            )
        return self

    def end(
        self,
        reason: Reason,
        told: dict[str, Any] | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Self:
        """End the attempt without success; the lifecycle decides the next state.

        ``told``: the step by which the handler ends it so, if it is not the usual one; {}: none.
        ``detail``: what the end says about itself, if it was not planned.
        """
        self.losses += reason is Reason.LOST
        self.handed_back += reason is Reason.RELEASED
        self.failures += reason in TOLD
        counters = Counters(
            self.attempt, self.losses, self.handed_back, self.max_attempts, self.max_losses
        )
        target = after_attempt(counters, reason, cancel_requested=self.cancel_requested)
        if reason is Reason.LOST:
            self.lost.append(self.epoch)
            self.run.dead.setdefault(self.claimed_by[self.epoch], instant(self.run.now))
            self.step(target, reason, "scheduler:scheduler-1")
        elif reason is Reason.RELEASED:
            self.step(target, reason, self.owner, detail)
        else:
            self.tell(TOLD[reason] if told is None else told)
            if reason is Reason.TIMED_OUT:
                grace = GRACE_SECONDS if self.owner.startswith("scheduler") else 0.0
                self.run.now += TIMEOUT_SECONDS + grace
            self.step(target, reason, self.owner, detail or SEEN_LATER)
        if target is State.SCHEDULED:
            self.due = self.run.now + self._delay(reason, detail)
        return self

    def _delay(self, reason: Reason, detail: dict[str, Any] | None) -> float:
        """Return the longest delay after an attempt that ended so."""
        if reason not in TOLD:
            return 0.0
        if detail is not None and detail["error"]["type"] == "Retry":
            return SINK_RETRY_SECONDS
        declared = DECLARATIONS[self.asked["name"]]
        step = step_of(self.asked["payload"], self.attempt)
        after: float = step.get("after", declared.longest_delay_seconds(self.failures))
        return after

    def cancel(self) -> Self:
        """Add a cancel by a client, answered according to the state."""
        invoke = self.run.op("cancel", {"task_id": self.task_id})
        answer = "too_late"
        if self.state is State.RUNNING:
            answer = "requested"
            if not self.cancel_requested:
                self.cancel_requested = True
                self.step(State.RUNNING, Reason.CANCEL_REQUESTED, "api:api-1")
        elif self.state in {State.SCHEDULED, State.QUEUED}:
            answer = "cancelled"
            self.step(State.CANCELLED, Reason.CANCELLED, "api:api-1")
        elif self.state is State.CANCELLED:
            answer = "cancelled"
        if answer == "too_late":
            answered: dict[str, Any] = {"status": 409, "state": self.state}
        else:
            answered = {"status": 202 if answer == "requested" else 200, "task": self.body()}
        self.run.complete(invoke, "ok", {"answer": answer} | answered)
        return self

    def retry(self) -> Self:
        """Add a retry by hand, which is refused unless the task is a dead letter."""
        invoke = self.run.op("retry", {"task_id": self.task_id})
        if self.state is not State.FAILED:
            refusal = {"answer": "refused", "status": 409, "state": self.state}
            self.run.complete(invoke, "ok", refusal)
            return self
        self.max_attempts = max(
            self.max_attempts, self.attempt - self.losses - self.handed_back + 1
        )
        self.max_losses = max(self.max_losses, self.losses + 1)
        self.cancel_requested = False
        self.step(State.SCHEDULED, Reason.RETRIED, "api:api-1")
        self.due = self.run.now
        answered = {"answer": "retried", "status": 200, "task": self.body()}
        self.run.complete(invoke, "ok", answered)
        return self

    def read(self) -> Self:
        """Add a GET by a client."""
        invoke = self.run.op("get", {"task_id": self.task_id})
        answered = {"task_id": self.task_id, "state": self.state, "task": self.body()}
        self.run.complete(invoke, "ok", answered)
        return self

    def read_events(self) -> Self:
        """Add a GET of its events by a client."""
        invoke = self.run.op("events", {"task_id": self.task_id})
        self.run.complete(invoke, "ok", {"events": self.shown_events()})
        return self

    def submit_again(self, *, other: bool = False, **fields: Any) -> Self:
        """Repeat the submit; ``other``: with another payload under the key, which is refused.

        ``fields``: what else it asks for.
        """
        asked = self.asked | ({"payload": {"key": "other"}} if other else {}) | fields
        invoke = self.run.op("submit", asked)
        answered: dict[str, Any] = {"status": 200, "task": self.body(whole=False)}
        if other:
            answered = {"status": 422, "problem": "idempotency-key-reused"}
        answered["task_id"] = self.task_id
        self.run.complete(invoke, "fail" if other else "ok", answered)
        return self

    def stale_finish(self, label: str, epoch: int) -> Self:
        """Add a refused finish with an old epoch."""
        claimant = self.claimed_by.get(epoch, "")
        own = self.run.labels.get(claimant) == label
        self.run.records.append(
            StaleWrite(
                task_id=self.task_id,
                at=instant(self.run.tick()),
                worker_id=claimant if own else self.run.worker(label),
                epoch=epoch,
                outcome=Reason.SUCCEEDED,
                state_found=self.state,
                epoch_found=self.epoch,
            )
        )
        return self

    def row(self) -> TaskRow:
        """Return the task as the final read finds it."""
        return TaskRow(
            task_id=self.task_id,
            key=self.asked["key"],
            key_namespace=self.asked.get("key_namespace", "default"),
            name=self.asked["name"],
            payload=self.asked["payload"],
            run_at=self.run_at,
            state=str(self.state),
            epoch=self.epoch,
            seq=self.seq,
            attempt=self.attempt,
            losses=self.losses,
            handed_back=self.handed_back,
            max_attempts=self.max_attempts,
            max_losses=self.max_losses,
            created_at=self.created_at,
            finished_at=self.finished_at,
            due_at=instant(self.due),
            queue=self.asked["queue"],
            priority=self.asked["priority"],
            timeout_seconds=TIMEOUT_SECONDS,
            cancel_requested=self.cancel_requested,
        )

    def shown_events(self) -> list[dict[str, Any]]:
        """Return its events as the API shows them."""
        mine = (r for r in self.run.records if isinstance(r, Event) and r.task_id == self.task_id)
        return [
            {name: getattr(event, name) for name in _SHOWN}
            | {"reason": Reason(event.reason).text, "detail": event.detail}
            for event in mine
        ]

    def body(self, *, whole: bool = True) -> dict[str, Any]:
        """Return the task as the API shows it; ``whole``: with result and attempts."""
        row = asdict(self.row())
        hidden = {"kind", "task_id", "key", "key_namespace", "seq", "max_losses"}
        result = SEEN_LATER if whole and self.state is State.SUCCEEDED else None
        return {key: row[key] for key in row if key not in hidden} | {
            "id": self.task_id,
            "payload": self.asked["payload"],
            "idempotency_key": self.asked["key"],
            "result": result,
            "attempts": attempts_of(self.shown_events()) if whole else None,
        }
