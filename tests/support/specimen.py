"""Histories written step by step, to test the checker.

A ``Specimen`` is a run, a ``Life`` is a task. For a bad history, change the records afterwards::

    run = Specimen()
    run.submit("a").dispatch().claim("worker-1").succeed()
    assert judge(run.history()).verdict == "true"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self
from uuid import UUID

from life import ALLOWED_SECONDS, SETTINGS, STEP_SECONDS, Life, instant
from observed import evidence, process_end
from shown import filled_in
from specimen_scenario import LOAD_SECONDS, specimen_scenario
from testimonies import TIMEOUT_SECONDS, testified

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
    Term,
    Worker,
)
from holdfast.model.lifecycle import (
    TERMINAL,
    Reason,
    State,
)


@dataclass(slots=True)
class Specimen:
    """A run; ``now`` (arena seconds) advances with each record, and may be set."""

    plan: dict[str, Any] = field(default_factory=dict)
    now: float = 1.0
    records: list[Record] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    incarnations: dict[str, str] = field(default_factory=dict)  # actor -> its last incarnation
    labels: dict[str, str] = field(default_factory=dict)  # incarnation -> its actor
    dead: dict[str, str] = field(default_factory=dict)  # incarnation -> when it was marked dead
    retired: set[str] = field(default_factory=set)  # those of the dead that ended by themselves
    api_key: str | None = None  # the name of what the following submits are sent with
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
        queue: str = "default",
        priority: int = 0,
    ) -> Life:
        """Add a submit that is stored and due in ``later`` seconds; ``answer`` is what it got.

        ``poison``: its payload makes its handler kill its worker.
        """
        run_at = instant(self.now + later) if later else None
        asked = {
            "key": key,
            "name": f"chaos_{effect}",
            "payload": {
                "number": len(self.lives),
                "key": key,
                "steps": [{"do": "kill"}] * 32 if poison else [],
            },
            "run_at": run_at,
            "effect": effect,
            "queue": queue,
            "priority": priority,
            "max_attempts": max_attempts,
            "timeout_seconds": TIMEOUT_SECONDS,
        }
        if self.api_key is not None:
            asked |= {"key_namespace": self.api_key, "secret": 1}
        due = self.now + later if later else 0.0
        invoke = self.op("submit", asked)
        life = Life(self, self.fresh_id(), asked, run_at or "", max_attempts)
        self.lives.append(life)
        life.step(State.SCHEDULED, Reason.SUBMITTED, "api:api-1")
        life.run_at = life.run_at or life.created_at
        life.due = max(due, self.now)
        answered: dict[str, Any] = {"status": 503, "problem": "outcome-unknown"}
        if answer == "ok":
            answered = {"task_id": life.task_id, "status": 201, "task": life.body(whole=False)}
        else:
            self.lose_replies()
        self.complete(invoke, answer, answered)
        return life

    def walk(self, limit: int, **filters: Any) -> Self:
        """Add a walk through a listing by a client, filtered by ``state``, ``name``, ``queue``."""
        bodies = [life.body(whole=False) for life in reversed(self.lives)]
        kept = [b for b in bodies if all(b[name] == value for name, value in filters.items())]
        query: dict[str, Any] = {"limit": limit} | filters
        for start in range(0, max(1, len(kept)), limit):
            following = f"after-{start + limit}" if start + limit < len(kept) else None
            page = {"tasks": kept[start : start + limit], "next_cursor": following}
            self.complete(self.op("list", {"query": query}), "ok", page)
            query = query | {"cursor": following}
        return self

    def op(
        self,
        op: Literal["submit", "get", "events", "cancel", "retry", "list"],
        value: dict[str, Any],
    ) -> Op:
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
        """Add a fault: its start with the tasks in flight, its evidence if observed, its end.

        It lasts as long as the plan says.
        """
        held = self.lasting(fault_id)
        flying = [life for life in self.lives if life.state not in TERMINAL]
        running = sum(life.state is State.RUNNING for life in flying)
        kinds: tuple[Literal["start", "felt", "end"], ...] = ("start", "felt", "end")
        for kind in kinds:
            if kind == "felt":
                self.now += held
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
                        evidence={target: evidence(fault, target, held)} if kind == "felt" else {},
                        held_seconds=(held,) if kind == "end" else (),
                    )
                )
        if observed and (end := process_end(fault, target, self.now)):
            self.records.append(end)

    def lasting(self, fault_id: str) -> float:
        """Return how long a fault lasts by the plan: without a number, to the end of the load."""
        plans = {each["name"]: each for each in self.plan.get("faults", ())}
        plan = plans.get(fault_id.partition("#")[0], {"for": 0.01})
        return float(plan.get("for", max(0.01, LOAD_SECONDS - self.now)))

    def lose_replies(self) -> None:
        """Add the planned fault that explains why a request fails; it needs a task in flight."""
        fault = {
            "name": f"lost-{len(self.records)}",
            "fault": "timeout",
            "target": "client->api-1",
            "attributes": {"timeout": 0},
            "after": {"event": "submitted"},
        }
        self.plan = self.plan | {"faults": [*self.plan.get("faults", ()), fault]}
        self.inject(f"{fault['name']}#1", "timeout", "client->api-1")

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
                settings=SETTINGS,
            ),
            PhaseStart(phase="faults", at=0.0),
        ]
        tail: list[Record] = [
            PhaseStart(phase="healing", at=self.now),
            PhaseStart(phase="healed", at=self.now),
        ]
        if drained:
            tail.append(PhaseStart(phase="drained", at=self.now + ALLOWED_SECONDS + 1.0))
            tail += [life.row() for life in self.lives]
            tail += [
                Worker(
                    worker_id=worker_id,
                    label=label,
                    started_at=instant(0),
                    lease_expires_at=self.dead.get(worker_id, instant(self.now + 1.0)),
                    dead_at=self.dead.get(worker_id),
                    dead_reason="stopped" if worker_id in self.retired else None,
                )
                for worker_id, label in self.labels.items()
            ]
        return [*head, *map(self._testified, self.records), *tail]

    def history(self, *more: Record) -> History:
        """Return the history of the run, with ``more`` records that do not belong there."""
        return History([*self.all_records(), *more])

    def edited(self, change: Callable[[Record], Record | None]) -> History:
        """Return the history with each record changed, or dropped if ``change`` returns None."""
        changed = (change(record) for record in self.all_records())
        return History(record for record in changed if record is not None)

    def _testified(self, record: Record) -> Record:
        """Add to a record what the handler saw that left it, and to an answer what it shows."""
        if isinstance(record, Op):
            return replace(record, value=filled_in(record.value, self._testimonies()))
        task_id: str | None = getattr(record, "task_id", None)
        for life in self.lives:
            if life.task_id == task_id:
                return testified(record, life.asked["payload"], life.attempts)
        return record

    def _testimonies(self) -> list[Record]:
        left = (record for record in self.records if isinstance(record, Event | Effect))
        return [self._testified(record) for record in left]


def retire(run: Specimen, life: Life) -> None:
    """Let the owner of a RUNNING task end by itself."""
    incarnation = life.claimed_by[life.epoch]
    run.retired.add(incarnation)
    run.dead[incarnation] = instant(run.now)
