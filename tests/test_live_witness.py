"""The witnesses tell what is in the database, in the vocabulary of histories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from chaos.live.sightings import HintWatch, SeenHint, late_hints, sightings, unanswered_statements
from chaos.live.witness import Witness
from chaos.plan import After
from chaos.records import Event, Sometimes, SqlEffect, StaleWrite, Task, Worker, decode, encode
from chaos.tasks.sql import CHAOS_EFFECTS
from system.embedded import EmbeddedValkey
from system.guardian import Guardian
from system.ids import new_id
from system.lifecycle import Reason
from system.machine import temporary_directory
from system.queue import HintQueue
from system.records import Failure, Hint, NewTask, Success
from system.settings import Settings
from system.store import Store


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    store = Store(settings, connections=2, application_name="test")
    yield store
    await store.close()


@pytest.fixture
async def witness(database_url: str) -> AsyncIterator[Witness]:
    connection = await asyncpg.connect(database_url)
    await connection.execute(CHAOS_EFFECTS)
    await connection.close()
    witness = Witness(database_url)
    yield witness
    await witness.close()


async def ran(store: Store) -> tuple[NewTask, NewTask, NewTask]:
    """One task succeeded under worker-1, one failed and waits, one runs under worker-2."""
    tasks = [NewTask(new_id(), "chaos_ledger", '{"n": 1}') for _ in range(3)]
    done, failed, running = tasks
    one, two = new_id(), new_id()
    await store.register(one, "worker-1", ["default"], [])
    await store.register(two, "worker-2", ["default"], [])
    await store.submit(tasks, "api:api-1")
    await store.dispatch(10, "scheduler:scheduler-1")
    hints = [Hint(task.id, 0, "default", None) for task in tasks]
    await store.claim(hints[:2], one, new_id())
    await store.claim(hints[2:], two, new_id())
    await store.finish([Success(done.id, 1, '"well"')], one)
    await store.release([Failure(failed.id, 1, Reason.FAILED, 60.0)], one)
    # A finish under an epoch that is not the task's: refused, and witnessed.
    await store.finish([Success(running.id, 3, '"stale"')], one)
    return done, failed, running


async def test_counts_are_those_of_the_database(store: Store, witness: Witness) -> None:
    await ran(store)
    counts = await witness.counts()
    assert (counts.terminal, counts.open, counts.running, counts.stale_writes) == (1, 2, 1, 1)
    flight = await witness.in_flight()
    assert (flight.open, flight.running) == (2, 1)
    assert await witness.running("worker-1") == 0
    assert await witness.running("worker-2") == 1


@pytest.mark.parametrize(
    ("event", "actor", "count"),
    [
        ("claimed", None, 3),
        ("claimed", "worker-1", 2),
        ("claimed", "worker-*", 3),
        ("claimed", "worker-3", 0),
        ("dispatched", "scheduler-1", 3),
        ("submitted", "api-*", 3),
        ("succeeded", "worker-1", 1),
        ("lost", None, 0),
    ],
)
async def test_events_are_counted_under_the_names_of_actors(
    store: Store, witness: Witness, event: str, actor: str | None, count: int
) -> None:
    await ran(store)
    assert await witness.count(After(event=event, actor=actor)) == count


async def test_the_testimony_is_complete_and_can_be_read_back(
    store: Store, witness: Witness, database_url: str
) -> None:
    done, _, running = await ran(store)
    connection = await asyncpg.connect(database_url)
    row = "INSERT INTO chaos_effects VALUES ($1, 1, 1, clock_timestamp())"
    await connection.execute(row, done.id)
    await connection.close()
    records = await witness.testimony()
    assert [decode(encode(record)) for record in records] == records
    tasks = {record.task_id: record for record in records if isinstance(record, Task)}
    assert tasks[str(done.id)].state == "SUCCEEDED"
    assert tasks[str(done.id)].payload == {"n": 1}
    stories = [record for record in records if isinstance(record, Event)]
    assert [event.seq for event in stories if event.task_id == str(done.id)] == [1, 2, 3, 4]
    (stale,) = [record for record in records if isinstance(record, StaleWrite)]
    assert (stale.task_id, stale.state_found) == (str(running.id), "RUNNING")
    workers = [record.label for record in records if isinstance(record, Worker)]
    assert workers == ["worker-1", "worker-2"]
    (effect,) = [record for record in records if isinstance(record, SqlEffect)]
    assert effect.task_id == str(done.id)


async def test_incarnations_are_told_apart(store: Store, witness: Witness) -> None:
    assert await witness.incarnation("worker-1") is None
    first, second = new_id(), new_id()
    await store.register(first, "worker-1", ["default"], [])
    found = await witness.incarnation("worker-1")
    assert found is not None
    assert (found.worker_id, found.dead) == (str(first), False)
    await store.retire(first)
    assert await witness.is_dead(str(first))
    await store.register(second, "worker-1", ["default"], [])
    found = await witness.incarnation("worker-1")
    assert found is not None
    assert (found.worker_id, found.dead) == (str(second), False)


async def test_a_witness_survives_the_loss_of_its_connection(witness: Witness) -> None:
    before = await witness.clock()
    assert witness._connection is not None
    witness._connection.terminate()
    assert await witness.clock() > before


@pytest.fixture
def own_valkey(guardian: Guardian) -> Iterator[EmbeddedValkey]:
    directory = temporary_directory("holdfast-test-")
    guardian.own_directory(directory)
    with EmbeddedValkey(directory, guardian=guardian) as valkey:
        yield valkey


async def test_every_hint_is_seen_as_it_reaches_redis(own_valkey: EmbeddedValkey) -> None:
    settings = Settings(redis_url=own_valkey.url())
    queue = HintQueue(settings, connections=1)
    watch = HintWatch(own_valkey.url())
    hints = [
        Hint(new_id(), 0, "default", None),
        Hint(new_id(), 4, "other", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]
    async with watch.watching(), Redis.from_url(own_valkey.url()) as redis:
        while not any(client["flags"] == "O" for client in await redis.client_list()):
            await asyncio.sleep(0.01)
        await queue.publish(hints)
        async with asyncio.timeout(5):
            while len(watch.hints) < 2:
                await asyncio.sleep(0.01)
    await queue.close()
    seen = [(hint.task_id, hint.epoch) for hint in watch.hints]
    assert seen == [(str(hint.task_id), hint.epoch) for hint in hints]


def event(task: str, second: int, epoch: int, reason: str = "claimed") -> Event:
    return Event(
        task_id=task,
        seq=1,
        at=f"2026-01-01T00:00:{second:02d}Z",
        from_state=None,
        to_state="RUNNING",
        epoch=epoch,
        attempt=1,
        actor="worker:x",
        reason=reason,
    )


ZERO = 1767225600.0  # 2026-01-01T00:00:00Z


def test_a_hint_is_late_if_its_epoch_was_gone_when_it_arrived() -> None:
    events = [event("a", 0, 0), event("a", 10, 1), event("b", 0, 0)]
    on_time, late = SeenHint(ZERO + 9, "a", 0), SeenHint(ZERO + 11, "a", 0)
    never_claimed = SeenHint(ZERO + 50, "b", 0)
    assert late_hints([on_time, late, never_claimed], events) == [late]


def test_statements_without_an_answer_are_counted_from_the_logs(tmp_path: Path) -> None:
    (tmp_path / "worker-1.log").write_text(
        'not json\n{"error": "Postgres did not answer within 2.0 s"}\n{"event": "worker started"}\n'
        '{"error": "the connection to Postgres broke while waiting for a reply: x"}\n[]\n'
    )
    (tmp_path / "worker-2.log").write_text('{"error": "cannot reach Postgres: TimeoutError"}\n')
    assert unanswered_statements(tmp_path, ["worker-1", "worker-2"]) == {"worker-1": 2}
    held = {record.name: record.held for record in sightings([], [], tmp_path)}
    assert held == {"stale_hint_delivered": False, "statement_outcome_unknown": True}
    assert all(isinstance(record, Sometimes) for record in sightings([], [], tmp_path))


def test_the_words_that_are_looked_for_are_those_of_the_product() -> None:
    """If system/database.py says it otherwise one day, this arena must learn it."""
    from chaos.live.sightings import _UNANSWERED

    source = (Path(__file__).parent.parent / "system" / "database.py").read_text()
    assert all(text in source for text in _UNANSWERED)
