"""Coalesced submits: batching, one unstorable row, lost replies, disconnected clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from holdfast.api.coalescer import Bounds, Coalescer, Overloaded
from holdfast.errors import OutcomeUnknown, Unavailable, Unstorable
from holdfast.model.ids import new_id
from holdfast.model.task import NewTask, Submitted
from holdfast.store.store import Store

MakeCoalescer = Callable[..., Coalescer]


class Tap:
    """The real store's submit; records what was sent and can interfere."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.statements: list[list[NewTask]] = []
        self.lose_replies = 0
        self.refuse = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def submit(self, tasks: Sequence[NewTask], actor: str) -> list[Submitted]:
        self.statements.append(list(tasks))
        await self.gate.wait()
        if self.refuse:
            self.refuse -= 1
            raise Unavailable("refused")
        answers = await self._store.submit(tasks, actor)
        if self.lose_replies:
            self.lose_replies -= 1
            raise OutcomeUnknown("lost")
        return answers

    @property
    def sizes(self) -> list[int]:
        return [len(statement) for statement in self.statements]


@pytest.fixture
def tap(store: Store) -> Tap:
    return Tap(store)


@pytest.fixture
async def make(tap: Tap) -> AsyncIterator[MakeCoalescer]:
    made: list[Coalescer] = []

    def make(timeout_seconds: float = 10.0, **bounds: float) -> Coalescer:
        made.append(
            Coalescer(tap.submit, "api:test", timeout_seconds, Bounds(**bounds))  # type: ignore[arg-type]
        )
        return made[-1]

    yield make
    tap.gate.set()
    for coalescer in made:
        await coalescer.close()


def task(payload: str = "{}", key: str | None = None) -> NewTask:
    return NewTask(new_id(), "echo", payload.encode(), idempotency_key=key)


async def one(coalescer: Coalescer, new: NewTask) -> Submitted:
    [outcome] = await coalescer.submit([new])
    assert isinstance(outcome, Submitted), outcome
    return outcome


async def test_concurrent_submits_share_a_statement(
    make: MakeCoalescer, tap: Tap, store: Store
) -> None:
    coalescer = make(wait_seconds=0.05)
    tasks = [task(json.dumps({"n": n})) for n in range(100)]
    answers = await asyncio.gather(*(one(coalescer, new) for new in tasks))
    assert tap.sizes == [100]
    assert [answer.task.id for answer in answers] == [new.id for new in tasks]
    assert [json.loads(answer.task.payload)["n"] for answer in answers] == list(range(100))
    assert await store.get(tasks[57].id) is not None


async def test_statements_are_bounded_in_tasks_bytes_and_number(
    make: MakeCoalescer, tap: Tap
) -> None:
    tap.gate.clear()
    coalescer = make(statement_tasks=10, statement_bytes=100, statements_in_flight=2)
    long = json.dumps({"a": "x" * 60})
    tasks = [*(task() for _ in range(35)), *(task(long) for _ in range(3))]
    submitting = asyncio.create_task(coalescer.submit(tasks))
    while len(tap.sizes) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert tap.sizes == [10, 10], "a third one waits"
    tap.gate.set()
    assert {type(outcome) for outcome in await submitting} == {Submitted}
    # Five small payloads leave room for one long one; each other long one has its own statement.
    assert tap.sizes == [10, 10, 10, 6, 1, 1]


async def test_unstorable_row_does_not_fail_its_batch(
    make: MakeCoalescer, tap: Tap, store: Store
) -> None:
    coalescer = make(wait_seconds=0.05)
    tasks = [task(json.dumps({"n": n})) for n in range(20)]
    tasks[13] = task('{"a": "\\u0000"}')  # bypasses the validator, as a bug in it would
    outcomes = [
        result for [result] in await asyncio.gather(*(coalescer.submit([new]) for new in tasks))
    ]
    assert isinstance(outcomes.pop(13), Unstorable)
    assert {type(outcome) for outcome in outcomes} == {Submitted}
    assert await store.get(tasks[13].id) is None
    assert await store.get(tasks[12].id) is not None
    assert len(tap.sizes) <= 1 + 2 * 5, "halves, not one by one"


async def test_lost_reply_is_settled_by_resending(
    make: MakeCoalescer, tap: Tap, store: Store
) -> None:
    tap.lose_replies = 2
    new = task(key="k")
    outcome = await one(make(), new)
    assert outcome.outcome == "created", "by an earlier sending of the same id"
    assert tap.statements == [[new], [new], [new]]
    story = await store.get(new.id)
    assert story is not None
    assert len(story.events) == 1, "stored once"


async def test_unavailable_after_a_lost_reply_is_unknown(
    make: MakeCoalescer, tap: Tap, store: Store
) -> None:
    tap.lose_replies = 1
    coalescer = make(timeout_seconds=0.4)
    submitting = asyncio.create_task(coalescer.submit([new := task()]))
    while not tap.statements or tap.lose_replies:
        await asyncio.sleep(0)
    tap.refuse = 1000
    [outcome] = await submitting
    assert isinstance(outcome, OutcomeUnknown)
    assert await store.get(new.id) is not None, "it was stored, although the outcome was unknown"


async def test_pauses_between_resends_double_up_to_a_second(
    make: MakeCoalescer, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def paused(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", paused)
    tap.lose_replies = 7
    await one(make(), task())
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_short_timeout_leaves_time_for_a_resend(make: MakeCoalescer, tap: Tap) -> None:
    tap.lose_replies = 1
    await one(make(timeout_seconds=0.9), task())
    assert tap.sizes == [1, 1]


async def test_unavailable_after_a_lost_reply_is_resent(
    make: MakeCoalescer, tap: Tap, store: Store
) -> None:
    tap.lose_replies = 1
    submitting = asyncio.create_task(make().submit([new := task()]))
    while not tap.statements or tap.lose_replies:
        await asyncio.sleep(0)
    tap.refuse = 2
    [outcome] = await submitting
    assert isinstance(outcome, Submitted)
    assert tap.statements == [[new]] * 4
    assert await store.get(new.id) is not None


async def test_unavailable_on_the_first_send_is_reported_immediately(
    make: MakeCoalescer, tap: Tap
) -> None:
    tap.refuse = 1
    [outcome] = await make(timeout_seconds=60.0).submit([task()])
    assert isinstance(outcome, Unavailable)
    assert len(tap.statements) == 1


async def test_disconnected_client_does_not_affect_its_batch(
    make: MakeCoalescer, tap: Tap, store: Store
) -> None:
    coalescer = make(wait_seconds=0.005)
    tap.gate.clear()
    hurried, patient = task(), task()
    leaving = asyncio.create_task(coalescer.submit([hurried]))
    staying = asyncio.create_task(coalescer.submit([patient]))
    while not tap.statements:
        await asyncio.sleep(0.001)
    leaving.cancel()
    tap.gate.set()
    [outcome] = await staying
    assert isinstance(outcome, Submitted)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert tap.statements == [[hurried, patient]]
    assert await store.get(hurried.id) is not None, "the shared statement was not touched"


async def test_client_disconnected_before_the_send_is_dropped(
    make: MakeCoalescer, tap: Tap
) -> None:
    coalescer = make(wait_seconds=0.05)
    leaving = asyncio.create_task(coalescer.submit([task()]))
    await asyncio.sleep(0)
    leaving.cancel()
    staying = task()
    await one(coalescer, staying)
    assert tap.statements == [[staying]]


async def test_timeout_before_the_send_is_unavailable_after_it_unknown(
    make: MakeCoalescer, tap: Tap
) -> None:
    tap.gate.clear()
    coalescer = make(timeout_seconds=0.2, statements_in_flight=1, statement_tasks=1)
    [sent], [waiting] = await asyncio.gather(coalescer.submit([task()]), coalescer.submit([task()]))
    assert isinstance(sent, OutcomeUnknown)
    assert isinstance(waiting, Unavailable)
    tap.gate.set()
    await coalescer.close()
    assert tap.sizes == [1], "what was reported as not done is not done later"


async def test_backpressure(make: MakeCoalescer, tap: Tap) -> None:
    tap.gate.clear()
    coalescer = make(waiting_tasks=5, waiting_bytes=100)
    four = [task() for _ in range(4)]
    inside = asyncio.create_task(coalescer.submit(four))
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await coalescer.submit([task(), task()])
    with pytest.raises(Overloaded):
        await coalescer.submit([task(json.dumps("x" * 100))])
    last = asyncio.create_task(coalescer.submit([task()]))
    await asyncio.sleep(0)
    tap.gate.set()
    await asyncio.gather(inside, last)
    await one(coalescer, task())
    await coalescer.submit([task() for _ in range(5)])


async def test_close_settles_pending_submits_and_refuses_new_ones(
    make: MakeCoalescer, tap: Tap
) -> None:
    coalescer = make(wait_seconds=60.0)
    inside = asyncio.create_task(coalescer.submit([task()]))
    await asyncio.sleep(0)
    await coalescer.close()
    [outcome] = await inside
    assert isinstance(outcome, Submitted)
    with pytest.raises(Overloaded, match="stopping"):
        await coalescer.submit([task()])


async def test_bug_reaches_its_callers(make: MakeCoalescer, tap: Tap) -> None:
    async def broken(tasks: Sequence[NewTask], actor: str) -> list[Submitted]:
        raise RuntimeError("a bug")

    coalescer = Coalescer(broken, "api:test", 10.0)
    with pytest.raises(RuntimeError, match="a bug"):
        await coalescer.submit([task()])
    await coalescer.close()
