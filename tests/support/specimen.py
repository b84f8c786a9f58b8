"""Histories written step by step, to test the checker.

A ``Specimen`` is a run, a ``Life`` is a task. For a bad history, change the records afterwards::

    run = Specimen()
    run.submit("a").dispatch().claim("worker-1").succeed()
    assert judge(run.history()).verdict == "true"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self
from uuid import UUID

from specimen_scenario import specimen_scenario

from chaos.history.history import History
from chaos.history.records import (
    ArenaName,
    Bound,
    Effect,
    Event,
    Fault,
    InFlight,
    Op,
    PhaseStart,
    Record,
    Run,
    SinkCall,
    SqlEffect,
    StaleWrite,
    TaskRow,
    Term,
    Worker,
)
from holdfast.model.lifecycle import (
    TERMINAL,
    Counters,
    Reason,
    State,
    after_attempt,
    epoch_step,
    is_legal,
)

EPOCH = datetime(2026, 1, 9, 10, tzinfo=UTC)
STEP_SECONDS = 0.01
ALLOWED_SECONDS = 20.0


def instant(seconds: float) -> str:
    """Convert arena seconds to an instant of the database."""
    return (EPOCH + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Specimen:
    """A run; ``now`` (arena seconds) advances with each record, and may be set."""

    plan: dict[str, Any] = field(default_factory=dict)
    now: float = 1.0
    records: list[Record] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    incarnations: dict[str, str] = field(default_factory=dict)  # actor -> its last incarnation
    labels: dict[str, str] = field(default_factory=dict)  # incarnation -> its actor
    dead: set[str] = field(default_factory=set)
    _count: int = 0

    def submit(
        self,
        key: str,
        *,
        effect: Literal["ledger", "sql", "external"] = "ledger",
        later: float = 0.0,
        answer: Literal["ok", "info"] = "ok",
        max_attempts: int = 5,
        poison: bool = False,
    ) -> Life:
        """Add a submit that is stored and due in ``later`` seconds; ``answer`` is what it got.

        ``poison``: its payload makes its handler kill its worker.
        """
        run_at = instant(self.now + later) if later else None
        asked = {
            "key": key,
            "name": f"chaos_{effect}",
            "payload": {"key": key, "steps": [{"do": "kill"}] * 32 if poison else []},
            "run_at": run_at,
            "effect": effect,
        }
        invoke = self.op("submit", asked)
        life = Life(self, self.fresh_id(), asked, run_at or instant(self.now), max_attempts)
        self.lives.append(life)
        life.step(State.SCHEDULED, Reason.SUBMITTED, "api:api-1")
        answered = {"task_id": life.task_id, "status": 201} if answer == "ok" else {"status": 503}
        self.complete(invoke, answer, answered)
        return life

    def op(self, op: Literal["submit", "get", "cancel", "retry"], value: dict[str, Any]) -> Op:
        """Add the invoke of an operation."""
        invoke = Op(
            op=op,
            type="invoke",
            op_id=f"op-{len(self.records)}",
            process="client-1",
            at=self.tick(),
            value=value,
        )
        self.records.append(invoke)
        return invoke

    def complete(
        self, invoke: Op, kind: Literal["ok", "fail", "info"], value: dict[str, Any]
    ) -> None:
        """Add the completion of an operation."""
        self.records.append(
            Op(
                op=invoke.op,
                type=kind,
                op_id=invoke.op_id,
                process=invoke.process,
                at=self.tick(),
                value=value,
            )
        )

    def inject(self, fault_id: str, fault: str, target: str, *, observed: bool = True) -> None:
        """Add a fault: its start with the tasks in flight, whether it was observed, and its end."""
        flying = [life for life in self.lives if life.state not in TERMINAL]
        running = sum(life.state is State.RUNNING for life in flying)
        kinds: tuple[Literal["start", "felt", "end"], ...] = ("start", "felt", "end")
        for kind in kinds:
            if kind != "felt" or observed:
                self.records.append(
                    Fault(
                        type=kind,
                        fault_id=fault_id,
                        fault=fault,
                        targets=(target,),
                        at=self.tick(),
                        in_flight=InFlight(open=len(flying), running=running)
                        if kind == "start"
                        else None,
                    )
                )

    def worker(self, label: str) -> str:
        """Return the last incarnation of an actor."""
        incarnation = self.incarnations.setdefault(label, self.fresh_id())
        self.labels[incarnation] = label
        return incarnation

    def living(self, label: str) -> str:
        """Return the incarnation that may claim: a new one if the last is dead."""
        if self.incarnations.get(label) in self.dead:
            del self.incarnations[label]
        return self.worker(label)

    def tick(self) -> float:
        """Advance ``now`` and return it."""
        self.now = round(self.now + STEP_SECONDS, 6)
        return self.now

    def fresh_id(self) -> str:
        """Return a new id, unique in this run."""
        self._count += 1
        return str(UUID(int=(0x7 << 76) | (0b10 << 62) | self._count))

    def all_records(self, *, drained: bool = True) -> list[Record]:
        """Return all records: the run, those added, a heal at ``now``, the final reads after T."""
        scenario = specimen_scenario(self.plan, len(self.lives))
        term = Term(name="given", seconds=ALLOWED_SECONDS, why="specimen")
        head: list[Record] = [
            Run(
                scenario=scenario.document,
                seed=7,
                arena=ArenaName.LIVE,
                database_epoch=instant(0),
                bound=Bound(seconds=ALLOWED_SECONDS, terms=(term,)),
                settings={},
            ),
            PhaseStart(phase="faults", at=0.0),
        ]
        tail: list[Record] = [PhaseStart(phase="healed", at=self.now)]
        if drained:
            tail.append(PhaseStart(phase="drained", at=self.now + ALLOWED_SECONDS + 1.0))
            tail += [life.row() for life in self.lives]
            tail += [
                Worker(worker_id=worker_id, label=label, started_at=instant(0))
                for worker_id, label in self.labels.items()
            ]
        return [*head, *self.records, *tail]

    def history(self, *more: Record) -> History:
        """Return the history of the run, with ``more`` records that do not belong there."""
        return History([*self.all_records(), *more])

    def edited(self, change: Callable[[Record], Record | None]) -> History:
        """Return the history with each record changed, or dropped if ``change`` returns None."""
        changed = (change(record) for record in self.all_records())
        return History(record for record in changed if record is not None)


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
    claimed_by: dict[int, str] = field(default_factory=dict)  # epoch -> incarnation

    def step(self, target: State, reason: Reason, actor: str) -> Self:
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
            )
        )
        return self

    def dispatch(self) -> Self:
        return self.step(State.QUEUED, Reason.DISPATCHED, "scheduler:scheduler-1")

    def republish(self) -> Self:
        return self.step(State.QUEUED, Reason.REPUBLISHED, "scheduler:scheduler-2")

    def claim(self, label: str = "worker-1") -> Self:
        incarnation = self.run.living(label)
        self.owner = f"worker:{incarnation}"
        self.attempt += 1
        self.step(State.RUNNING, Reason.CLAIMED, self.owner)
        self.claimed_by[self.epoch] = incarnation
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
            )
        )
        if self.asked["effect"] == "sql":
            self.run.records.append(
                SqlEffect(task_id=self.task_id, epoch=self.epoch - 1, attempt=self.attempt, at=at)
            )
        return self

    def end(self, reason: Reason) -> Self:
        """End the attempt without success; the lifecycle decides the next state."""
        self.losses += reason is Reason.LOST
        self.handed_back += reason is Reason.RELEASED
        counters = Counters(
            self.attempt, self.losses, self.handed_back, self.max_attempts, self.max_losses
        )
        target = after_attempt(counters, reason, cancel_requested=self.cancel_requested)
        if reason is not Reason.LOST:
            return self.step(target, reason, self.owner)
        self.run.dead.add(self.claimed_by[self.epoch])
        return self.step(target, reason, "scheduler:scheduler-1")

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
        self.run.complete(invoke, "ok", {"answer": answer})
        return self

    def retry(self) -> Self:
        """Add a manual retry of the dead letter."""
        self.max_attempts = max(
            self.max_attempts, self.attempt - self.losses - self.handed_back + 1
        )
        self.max_losses = max(self.max_losses, self.losses + 1)
        self.cancel_requested = False
        return self.step(State.SCHEDULED, Reason.RETRIED, "api:api-1")

    def read(self) -> Self:
        """Add a GET by a client."""
        invoke = self.run.op("get", {"task_id": self.task_id})
        self.run.complete(invoke, "ok", {"task_id": self.task_id, "state": self.state})
        return self

    def submit_again(self, *, other: bool = False) -> Self:
        """Repeat the submit; ``other``: with another payload under the key, which is refused."""
        asked = self.asked | {"payload": {"key": "other"}} if other else self.asked
        invoke = self.run.op("submit", asked)
        answered: dict[str, Any] = {"status": 422} if other else {"status": 200}
        answered |= {} if other else {"task_id": self.task_id}
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
            due_at=self.run_at,
            timeout_seconds=5.0,
        )
