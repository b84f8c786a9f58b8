"""Random sequences of store operations on a real Postgres, compared with ``lifecycle.py``.

The model uses no SQL: it applies ``lifecycle`` to a few counters. After every step the rows, the
event log and the ledger must match the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from store_model import MAKE_OLD, STATE_SINCE_OF_ANOTHER_EVENT, Model

from examples import examples
from holdfast.model.claim import Failure, Success
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import Answer, NewTask
from holdfast.settings import Settings
from holdfast.store.store import Store

T = TypeVar("T")
LATER = datetime.max.replace(tzinfo=UTC)
ENDS = [Reason.FAILED, Reason.DISCARDED, Reason.RELEASED, Reason.TIMED_OUT]


class StoreMachine(RuleBasedStateMachine):
    """Operations of clients, schedulers and workers, stale ones included."""

    configuration: Settings
    tasks = Bundle("tasks")
    workers = Bundle("workers")
    hints = Bundle("hints")
    grants = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = Store(self.configuration, connections=1, application_name="stateful")
        self.models: dict[UUID, Model] = {}
        self.dead: dict[UUID, Reason] = {}  # how its attempts end
        for table in ("tasks", "requests", "task_events", "effects", "stale_writes", "workers"):
            self.run(self._scalar(f"WITH d AS (DELETE FROM {table}) SELECT 0"))
        self.settled: dict[tuple[UUID, int], tuple[UUID, State]] = {}
        self.granted: list[tuple[UUID, int, UUID]] = []
        self.hinted: list[Hint] = []
        self.stale = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def _scalar(self, statement: str) -> Any:
        database = self.store._database
        return next(iter((await database.rows(text(statement)))[0].values()))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    # Start with workers and tasks: hypothesis disables rules at random per example.
    @initialize(target=workers)
    def workers_start(self) -> Any:
        workers = [UUID(int=number) for number in range(3)]
        for worker in workers:
            self.run(self.store.register(worker, "w", ["default"], []))
        return multiple(*workers)

    @initialize(target=tasks)
    def first_tasks(self) -> Any:
        return self._submit(2, max_attempts=3)

    @rule(worker=workers, begun=st.booleans())
    def end_worker(self, worker: UUID, begun: bool) -> None:
        self.run(self.store.retire(worker, LATER if begun else None))
        self.dead.setdefault(worker, Reason.LOST if begun else Reason.RELEASED)
        assert self.run(self.store.heartbeat(worker, None)) is None

    @precondition(lambda self: len(self.models) < 4)  # few, so that each has many transitions
    @rule(target=tasks, n=st.integers(1, 2), max_attempts=st.integers(1, 4))
    def submit(self, n: int, max_attempts: int) -> Any:
        return self._submit(n, max_attempts=max_attempts)

    def _submit(self, n: int, *, max_attempts: int) -> Any:
        new = [
            NewTask(
                UUID(int=100 + len(self.models) + k),
                "t",
                b"{}",
                max_attempts=max_attempts,
                max_losses=2,
            )
            for k in range(n)
        ]
        answers = self.run(self.store.submit(new, "api"))
        assert [answer.outcome for answer in answers] == ["created"] * n
        self.models |= {task.id: Model(max_attempts) for task in new}
        return multiple(*(task.id for task in new))

    @rule(target=hints, n=st.integers(1, 5))
    def dispatch(self, n: int) -> Any:
        due = {task for task, model in self.models.items() if model.state is State.SCHEDULED}
        dispatched = self.run(self.store.dispatch(n, "scheduler")).tasks
        assert len(dispatched) == min(n, len(due))
        for hint in dispatched:
            assert hint.task_id in due
            self.models[hint.task_id].move(State.QUEUED, Reason.DISPATCHED)
        self.hinted += dispatched
        return multiple(*dispatched)

    @rule(target=hints)
    def lose_hints(self) -> Any:
        queued = {task for task, model in self.models.items() if model.state is State.QUEUED}
        since = self.run(self.store.clock())
        assert self.run(self.store.expire_hints(1000, since)) == len(queued)
        again = self.run(self.store.republish(1000, "scheduler"))
        assert {hint.task_id for hint in again} == queued
        for hint in again:
            self.models[hint.task_id].move(State.QUEUED, Reason.REPUBLISHED)
        return multiple(*again)

    @rule(refused=st.lists(hints, min_size=1, max_size=4))
    def refuse_hints(self, refused: list[Hint]) -> None:
        self.run(self.store.restart_hint_deadlines([hint.task_id for hint in refused]))

    @rule(
        target=grants,
        some=st.lists(hints, min_size=1, max_size=4),
        worker=workers,
        exclusive=st.booleans(),
    )
    def claim(self, some: list[Hint], worker: UUID, exclusive: bool) -> Any:
        token = uuid4()
        claimed = self.run(self.store.claim(some, worker, token, exclusive=exclusive))
        latest = {hint.task_id: hint.epoch for hint in sorted(some, key=lambda h: h.epoch)}
        wanted = {
            task
            for task, epoch in latest.items()
            if self.models[task].state is State.QUEUED and self.models[task].epoch == epoch
        }
        granted = {grant.task_id for grant in claimed.grants}
        assert claimed.deferred == wanted - granted
        self._check_quarantine(wanted, granted, worker, exclusive=exclusive)
        for grant in claimed.grants:
            model = self.models[grant.task_id]
            assert grant.quarantined == model.counters.quarantined
            model.attempt += 1
            model.move(State.RUNNING, Reason.CLAIMED)
            model.owner = worker
            assert (grant.epoch, grant.attempt) == (model.epoch, model.attempt)
        again = self.run(self.store.claim(some, worker, token, exclusive=exclusive))
        assert again == claimed, "the same claim sent again must return the same grants"
        new = [(grant.task_id, grant.epoch, worker) for grant in claimed.grants]
        self.granted += new
        return multiple(*new)

    def _check_quarantine(
        self, wanted: set[UUID], granted: set[UUID], worker: UUID, *, exclusive: bool
    ) -> None:
        """Check that a quarantined task is granted only exclusively."""
        owned = [model for model in self.models.values() if model.owner == worker]
        last = {task for task in wanted if self.models[task].counters.quarantined}
        if any(model.counters.quarantined for model in owned):
            assert not granted, "nothing runs beside a quarantined task"
        elif wanted - last or owned or not exclusive:
            assert granted == wanted - last, "no quarantined task runs beside another task"
        else:
            assert granted <= last
            assert len(granted) == min(1, len(last)), "quarantined tasks run one at a time"

    @rule(target=grants, worker=workers, exclusive=st.booleans())
    def dispatch_and_claim(self, worker: UUID, exclusive: bool) -> Any:
        """Take the common path in one step: random single steps rarely get past it."""
        dispatched = self.dispatch(10)
        hints = [dispatched] if isinstance(dispatched, Hint) else list(dispatched.values)
        return self.claim(hints, worker, exclusive) if hints else multiple()

    @precondition(lambda self: any(not model.state.terminal for model in self.models.values()))
    @rule(target=grants, worker=workers, exclusive=st.booleans())
    def lose_all_and_go_on(self, worker: UUID, exclusive: bool) -> Any:
        """A new worker claims everything and dies; another worker claims what was reclaimed."""
        fresh = UUID(int=1000 + len(self.dead))
        self.run(self.store.register(fresh, "w", ["default"], []))
        self.dispatch_and_claim(fresh, exclusive=True)
        self.end_worker(fresh, begun=True)
        self.reclaim({})
        return self.dispatch_and_claim(worker, exclusive=exclusive)

    def _current_hints(self) -> list[Hint]:
        found = {
            hint.task_id: hint
            for hint in self.hinted
            if self.models[hint.task_id].state is State.QUEUED
            and self.models[hint.task_id].epoch == hint.epoch
        }
        return list(found.values())

    @precondition(lambda self: self._current_hints())
    @rule(target=grants, data=st.data(), exclusive=st.booleans())
    def claim_all_queued(self, data: st.DataObject, exclusive: bool) -> Any:
        """Claim every hinted task, if possible by a worker that already owns one."""
        owners = {model.owner for model in self.models.values() if model.owner}
        worker = data.draw(st.sampled_from(sorted(owners) or [UUID(int=0)]))
        return self.claim(self._current_hints(), worker, exclusive)

    def _quarantine_owners(self) -> list[UUID]:
        """Return the owners of quarantined tasks."""
        running = [model for model in self.models.values() if model.counters.quarantined]
        return [model.owner for model in running if model.owner]

    @precondition(lambda self: self._quarantine_owners() and len(self.models) < 8)
    @rule(target=grants, exclusive=st.booleans())
    def offer_second_task(self, exclusive: bool) -> Any:
        self._submit(1, max_attempts=2)
        return self.dispatch_and_claim(self._quarantine_owners()[0], exclusive)

    @rule(grant=grants, twice=st.booleans())
    def finish(self, grant: tuple[UUID, int, UUID], twice: bool) -> None:
        task, epoch, worker = grant
        self._ended(grant, Reason.SUCCEEDED)
        answer = self.run(self.store.finish([Success(task, epoch, "{}")], worker))[0]
        self._check_answer(grant, answer)
        if twice:
            again = self.run(self.store.finish([Success(task, epoch, "{}")], worker))[0]
            self._check_answer(grant, again)

    def _stale_grants(self) -> list[tuple[UUID, int, UUID]]:
        """Return grants of ended attempts whose task is RUNNING again: fenced by epoch only."""
        return [
            grant
            for grant in self.granted
            if self.models[grant[0]].state is State.RUNNING
            and self.models[grant[0]].epoch > grant[1]
        ]

    @precondition(lambda self: self._stale_grants())
    @rule(data=st.data(), success=st.booleans())
    def write_late(self, data: st.DataObject, success: bool) -> None:
        grant = data.draw(st.sampled_from(self._stale_grants()))
        if success:
            self.finish(grant, twice=False)
        else:
            self.release(grant, Reason.FAILED, handler=True)

    @precondition(lambda self: any(m.state is State.RUNNING for m in self.models.values()))
    @rule(worker=workers, claimed=st.booleans())
    def fail_all_and_go_on(self, worker: UUID, claimed: bool) -> None:
        for grant in list(self.granted):
            if self.models[grant[0]].epoch == grant[1]:
                self.release(grant, Reason.FAILED, handler=True)
        if claimed:
            self.dispatch_and_claim(worker, exclusive=False)
        else:
            self.dispatch(10)

    def _stale_hints(self) -> list[Hint]:
        return [
            hint
            for hint in self.hinted
            if self.models[hint.task_id].state is State.QUEUED
            and self.models[hint.task_id].epoch > hint.epoch
        ]

    @precondition(lambda self: self._stale_hints())
    @rule(data=st.data(), worker=workers)
    def claim_late(self, data: st.DataObject, worker: UUID) -> None:
        self.claim([data.draw(st.sampled_from(self._stale_hints()))], worker, exclusive=True)

    @rule(grant=grants, reason=st.sampled_from(ENDS), handler=st.booleans())
    def release(self, grant: tuple[UUID, int, UUID], reason: Reason, handler: bool) -> None:
        task, epoch, worker = grant
        unhandled = reason is Reason.RELEASED and not handler
        self.models[task].unhandled += unhandled and self.models[task].epoch == epoch
        self._ended(grant, reason)
        end = Failure(task, epoch, reason, 0.0, '{"error": {}}', unhandled=unhandled)
        answer = self.run(self.store.release([end], worker))[0]
        self._check_answer(grant, answer)

    def _ended(self, grant: tuple[UUID, int, UUID], reason: Reason) -> None:
        task, epoch, worker = grant
        model = self.models[task]
        if model.state is State.RUNNING and model.epoch == epoch:
            model.end(reason)
            self.settled[task, epoch] = worker, model.state

    def _check_answer(self, grant: tuple[UUID, int, UUID], answer: Answer) -> None:
        """Only the worker that ended the attempt gets "done", and how, whatever came since."""
        task, epoch, worker = grant
        by, ended = self.settled.get((task, epoch), (None, None))
        assert answer.done == (by == worker)
        assert answer.state is (ended if answer.done else self.models[task].state)
        self.stale += not answer.done

    @rule()
    def reclaim_lost(self) -> None:
        self.reclaim({})

    def reclaim(self, old: dict[UUID, Reason]) -> None:
        owners = {task: model.owner for task, model in self.models.items()}
        ends = {t: self.dead[owner] for t, owner in owners.items() if owner in self.dead} | old
        taken = self.run(self.store.reclaim(1000, "scheduler"))
        assert {end.task_id: end.reason for end in taken} == ends
        for task, reason in ends.items():
            self.models[task].end(reason)

    @precondition(lambda self: self._owned_by_the_living())
    @rule(data=st.data(), begun=st.booleans())
    def reclaim_for_age(self, data: st.DataObject, begun: bool) -> None:
        task = data.draw(st.sampled_from(self._owned_by_the_living()))
        model = self.models[task]
        assert model.owner is not None
        claimed_at = self.run(self._scalar(MAKE_OLD.format(task)))
        until = claimed_at if begun else claimed_at - timedelta.resolution
        assert self.run(self.store.heartbeat(model.owner, until))
        self.reclaim({task: Reason.TIMED_OUT if begun else Reason.RELEASED})

    def _owned_by_the_living(self) -> list[UUID]:
        return [task for task, m in self.models.items() if m.owner and m.owner not in self.dead]

    @rule(worker=workers)
    def heartbeat(self, worker: UUID) -> None:
        owned = self.run(self.store.heartbeat(worker, None))
        if worker in self.dead:
            assert owned is None
            return
        assert owned is not None
        mine = {
            (task, model.epoch, model.cancel_requested)
            for task, model in self.models.items()
            if model.owner == worker
        }
        assert {(o.task_id, o.epoch, o.cancel_requested) for o in owned} == mine

    @rule(task=tasks)
    def cancel(self, task: UUID) -> None:
        answer = self.run(self.store.cancel([task], "api"))[0]
        model = self.models[task]
        if model.state in {State.SCHEDULED, State.QUEUED}:
            model.cancel_requested = True
            model.move(State.CANCELLED, Reason.CANCELLED)
        elif model.state is State.RUNNING and not model.cancel_requested:
            model.cancel_requested = True
            model.move(State.RUNNING, Reason.CANCEL_REQUESTED)
        assert answer.done == (model.state in {State.CANCELLED, State.RUNNING})
        assert answer.state is model.state

    @rule(task=tasks)
    def retry(self, task: UUID) -> None:
        answer = self.run(self.store.retry([task], "api"))[0]
        model = self.models[task]
        assert answer.done == (model.state is State.FAILED)
        if answer.done:
            model.move(State.SCHEDULED, Reason.RETRIED)
            model.cancel_requested = False
            model.max_attempts = max(model.max_attempts, model.counters.used + 1)
            model.max_losses = max(model.max_losses, model.losses + 1)

    @precondition(lambda self: self.models)
    @invariant()
    def database_matches_model(self) -> None:
        for task, model in self.models.items():
            story = self.run(self.store.get(task))
            assert story is not None
            model.compare(story)
            if model.owner is not None and model.counters.quarantined:
                assert [m.owner for m in self.models.values()].count(model.owner) == 1
        assert self.run(self._scalar("SELECT count(*) FROM stale_writes")) == self.stale
        unhandled = sum(model.unhandled for model in self.models.values())
        assert (self.run(self._scalar("SELECT sum(unhandled) FROM tasks")) or 0) == unhandled
        assert self.run(self._scalar(STATE_SINCE_OF_ANOTHER_EVENT)) == 0


@pytest.mark.timeout(300)
def test_store_conforms_to_lifecycle(settings: Settings) -> None:
    machine = type("Machine", (StoreMachine,), {"configuration": settings})
    run_state_machine_as_test(
        machine,
        settings=examples(
            80,
            stateful_step_count=50,
            suppress_health_check=list(HealthCheck),
        ),
    )
