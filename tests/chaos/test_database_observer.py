"""Observers of the database, of hints and of logs, in the vocabulary of histories."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from tcp_server import accepting
from waiting import until

from chaos.checker.sometimes import OCCURRENCES
from chaos.history.records import Event, SqlEffect, StaleWrite, TaskRow, Worker, decode, encode
from chaos.live.hint_watch import HintWatch
from chaos.observers.database import DatabaseObserver
from chaos.observers.logs import (
    SeenHint,
    late_hints,
    log_observations,
    observations,
)
from chaos.scenario.faults import After
from chaos.tasks.sql import CHAOS_EFFECTS
from holdfast.devstack.host import free_port, temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedValkey
from holdfast.errors import OutcomeUnknown, Unavailable
from holdfast.model.claim import Failure, Success
from holdfast.model.dispatch import Hint
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import Reason
from holdfast.model.task import NewTask
from holdfast.queue.hints import HintQueue
from holdfast.settings import Settings
from holdfast.store.database import Database
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import create_logger


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    store = Store(settings, connections=2, application_name="test")
    yield store
    await store.close()


@pytest.fixture
async def observer(database_url: str) -> AsyncIterator[DatabaseObserver]:
    connection = await asyncpg.connect(database_url)
    await connection.execute(CHAOS_EFFECTS)
    await connection.close()
    observer = DatabaseObserver(database_url)
    yield observer
    await observer.close()


async def ran(store: Store) -> tuple[NewTask, NewTask, NewTask]:
    """Create one task that succeeded, one that failed and waits, and one that runs."""
    tasks = [NewTask(new_id(), "chaos_ledger", b'{"n": 1}') for _ in range(3)]
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
    # A finish under an epoch that has passed: refused and recorded.
    await store.finish([Success(running.id, 3, '"stale"')], one)
    return done, failed, running


async def test_counts_match_the_database(store: Store, observer: DatabaseObserver) -> None:
    await ran(store)
    counts = await observer.counts()
    assert (counts.terminal, counts.open, counts.running, counts.stale_writes) == (1, 2, 1, 1)
    flight = await observer.in_flight()
    assert (flight.open, flight.running) == (2, 1)
    assert await observer.running("worker-1") == 0
    assert await observer.running("worker-2") == 1


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
async def test_events_are_counted_by_actor_name(
    store: Store, observer: DatabaseObserver, event: str, actor: str | None, count: int
) -> None:
    await ran(store)
    assert await observer.count(After(event=event, actor=actor)) == count


async def test_final_records_are_complete_and_read_back(
    store: Store, observer: DatabaseObserver, database_url: str
) -> None:
    done, _, running = await ran(store)
    connection = await asyncpg.connect(database_url)
    row = "INSERT INTO chaos_effects VALUES ($1, 1, 1, clock_timestamp(), '{\"attempt\": 1}')"
    await connection.execute(row, done.id)
    await connection.close()
    records = await observer.final_records()
    assert [decode(encode(record)) for record in records] == records
    tasks = {record.task_id: record for record in records if isinstance(record, TaskRow)}
    assert tasks[str(done.id)].state == "SUCCEEDED"
    assert tasks[str(done.id)].payload == {"n": 1}
    stories = [record for record in records if isinstance(record, Event)]
    assert [event.seq for event in stories if event.task_id == str(done.id)] == [1, 2, 3, 4]
    (stale,) = [record for record in records if isinstance(record, StaleWrite)]
    assert (stale.task_id, stale.state_found) == (str(running.id), "RUNNING")
    workers = [record.label for record in records if isinstance(record, Worker)]
    assert workers == ["worker-1", "worker-2"]
    (effect,) = [record for record in records if isinstance(record, SqlEffect)]
    assert (effect.task_id, effect.seen) == (str(done.id), {"attempt": 1})


async def test_incarnations_are_ordered_by_start(store: Store, observer: DatabaseObserver) -> None:
    assert await observer.incarnations("worker-1") == []
    began = (await observer.clock()).timestamp()
    first, second, other = new_id(), new_id(), new_id()
    await store.register(first, "worker-1", ["default"], [])
    await store.register(other, "worker-2", ["default"], [])
    (found,) = await observer.incarnations("worker-1")
    assert (found.worker_id, found.dead_reason) == (str(first), None)
    await store.retire(first, None)
    await store.register(second, "worker-1", ["default"], [])
    old, new = await observer.incarnations("worker-1")
    assert [old.worker_id, new.worker_id] == [str(first), str(second)]
    assert old.dead_reason
    assert new.dead_reason is None
    # Unix time by the database's clock, which process faults compare with their own.
    ended = (await observer.clock()).timestamp()
    assert began <= old.started < new.started <= ended


async def test_observer_reconnects(observer: DatabaseObserver) -> None:
    before = await observer.clock()
    assert observer._connection is not None
    observer._connection.terminate()
    assert await observer.clock() > before


@pytest.fixture
def own_valkey(reaper: Reaper) -> Iterator[EmbeddedValkey]:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    with EmbeddedValkey(directory, reaper=reaper) as valkey:
        yield valkey


SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_every_hint_is_observed_as_it_reaches_redis(own_valkey: EmbeddedValkey) -> None:
    settings = Settings(redis_url=own_valkey.url())
    queue = HintQueue(settings, connections=1)
    watch = HintWatch(own_valkey.url())
    hints = [
        Hint(new_id(), 0, "default", None),
        Hint(new_id(), 4, "other", traceparent=SAMPLED),
    ]
    async with watch.watching(), Redis.from_url(own_valkey.url()) as redis:
        while not any(client["flags"] == "O" for client in await redis.client_list()):
            await asyncio.sleep(0.01)
        await queue.publish(hints, SAMPLED)
        await until(lambda: len(watch.hints) >= 2)
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


def test_hint_is_late_if_its_epoch_had_passed() -> None:
    events = [event("a", 0, 0), event("a", 10, 1), event("b", 0, 0)]
    on_time, late = SeenHint(ZERO + 9, "a", 0), SeenHint(ZERO + 11, "a", 0)
    never_claimed = SeenHint(ZERO + 50, "b", 0)
    assert late_hints([on_time, late, never_claimed], events) == [late]


SINCE = "2026-01-01T00:00:10.500000Z"


def line(second: float, **more: object) -> str:
    """A line as a role writes it (system/holdfast/telemetry/logs.py)."""
    at = datetime.fromtimestamp(ZERO + second, UTC).isoformat(timespec="microseconds")
    entry = {"level": "warning", "timestamp": at.replace("+00:00", "Z")} | more
    return json.dumps(entry) + "\n"


# The lines that count as each observation.
MATCHING: dict[str, list[dict[str, object]]] = {
    "statement_outcome_unknown": [
        {"event_name": "loop_failed", "error_code": "outcome_unknown"},
        {"event_name": "claim_resent", "error_code": "outcome_unknown", "hints": 1},
    ],
    "claim_unknown": [{"event_name": "claim_already_committed", "grants": 2}],
    "finish_unknown": [{"event_name": "finish_already_committed", "ends": 1}],
    "submit_unknown": [{"event_name": "submit_already_committed", "task_id": "t"}],
    "amnesia_healed": [{"event_name": "hint_loss_detected", "queued": 0}],
    "redis_given_up": [{"event_name": "loop_failed", "error_code": "redis_timeout"}],
}
# Near misses: other constants, the right constant in the wrong field, texts.
NEAR_MISSES: list[dict[str, object]] = [
    {"event_name": "worker_started"},
    {"event_name": "loop_failed", "error_code": "unavailable"},
    {"event_name": "loop_failed", "error": "Redis: no answer within 5.0 s"},
    {"event_name": "loop_failed", "error": "Postgres did not answer within 2.0 s"},
    {"event": "claim_already_committed", "error": "outcome_unknown"},
    {"event_name": "redis_timeout", "error_code": "hint_loss_detected"},
    {"event_name": None, "error_code": None},
]


def counted(logs: Path, since: str = SINCE) -> dict[str, dict[str, int]]:
    """Return the number of matching lines of each role, by observation."""
    found = log_observations(logs, since)
    assert all(record.held == bool(record.evidence) for record in found)
    return {record.name: record.evidence for record in found}


@pytest.mark.parametrize("name", MATCHING)
def test_each_observation_is_found_in_the_logs_of_the_roles(tmp_path: Path, name: str) -> None:
    innocent = "".join(line(20, **entry) for entry in NEAR_MISSES)
    matching = "".join(line(20 + n, **entry) for n, entry in enumerate(MATCHING[name]))
    (tmp_path / "worker-1.log").write_text(innocent + matching + matching)
    (tmp_path / "api-2.log").write_text(matching)
    (tmp_path / "scheduler-1.log").write_text(innocent)
    # Helpers have no number: their lines never count.
    (tmp_path / "toxiproxy.log").write_text(matching)
    once = len(MATCHING[name])
    seen = counted(tmp_path)
    assert seen.pop(name) == {"api-2": once, "worker-1": 2 * once}
    assert seen == {other: {} for other in MATCHING if other != name}


def test_lines_before_the_run_are_ignored(tmp_path: Path) -> None:
    # Redis is empty at the start of every run, which a scheduler logs.
    (entry,) = MATCHING["amnesia_healed"]
    (tmp_path / "scheduler-1.log").write_text(line(10.4, **entry) + line(10.499999, **entry))
    assert counted(tmp_path)["amnesia_healed"] == {}
    (tmp_path / "scheduler-2.log").write_text(line(10.4, **entry) + line(10.5, **entry))
    assert counted(tmp_path)["amnesia_healed"] == {"scheduler-2": 1}


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    (entry,) = MATCHING["claim_unknown"]
    whole = line(20, **entry)
    timeless = json.dumps(entry) + "\n"
    log = b"Traceback (most recent call last):\n[]\n3\n\xff\xfe\n\n" + whole[:-20].encode()
    log += f"\n{timeless}{whole}{whole[:40]}".encode()
    (tmp_path / "worker-1.log").write_bytes(log)
    assert counted(tmp_path)["claim_unknown"] == {"worker-1": 1}


def test_every_run_records_all_observations_of_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "worker-1.log").write_text(line(20, **MATCHING["redis_given_up"][0]))
    hints = [SeenHint(ZERO + 11, "a", 0)]
    records = observations(hints, [event("a", 0, 0), event("a", 10, 1)], tmp_path, SINCE)
    held_by_name = {record.name: record.held for record in records}
    assert {name for name in held_by_name if held_by_name[name]} == {
        "stale_hint_delivered",
        "redis_given_up",
    }
    by_arena = {each.name for each in OCCURRENCES.values() if each.count is None}
    of_postgres = {"statement_cancelled", "serialization_failed"}
    assert {*held_by_name} == by_arena - of_postgres
    assert [decode(encode(record)) for record in records] == records


def logged(directory: Path, error: Exception) -> None:
    """Log a failed loop as a role does, through the product's own logger."""
    with (directory / "worker-1.log").open("w") as stream:
        log = create_logger(style="json", stream=stream)
        log.warning("any text", event_name=EventName.LOOP_FAILED, error=error)


async def test_silent_redis_is_observed_by_its_error_code(tmp_path: Path) -> None:
    """A half-open connection, and the error that its queue raises."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the role gives up
        writer.close()

    async with accepting(listen) as port:
        url = f"redis://127.0.0.1:{port}/0"
        queue = HintQueue(Settings(redis_url=url, connect_timeout_seconds=0.1), connections=1)
        with pytest.raises(Unavailable) as caught:
            await queue.publish([Hint(new_id(), 0, "default", None)])
        await queue.close()
    logged(tmp_path, caught.value)
    assert counted(tmp_path)["redis_given_up"] == {"worker-1": 1}
    assert counted(tmp_path)["statement_outcome_unknown"] == {}


async def test_unreachable_redis_is_not_observed_as_silent(tmp_path: Path) -> None:
    """Connections that are refused get the code of their class."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    queue = HintQueue(Settings(redis_url=url), connections=1)
    with pytest.raises(Unavailable) as caught:
        await queue.publish([Hint(new_id(), 0, "default", None)])
    await queue.close()
    logged(tmp_path, caught.value)
    assert not any(counted(tmp_path).values())


async def test_lost_replies_of_postgres_are_observed_by_their_error_code(
    settings: Settings, tmp_path: Path
) -> None:
    """A statement that takes too long, and one whose connection is terminated."""
    impatient = settings.model_copy(update={"statement_timeout_seconds": 0.2})
    database = Database(impatient, connections=1, application_name="test")
    with pytest.raises(OutcomeUnknown) as late:
        await database.rows(text("SELECT pg_sleep(5)"))
    with pytest.raises(OutcomeUnknown) as broken:
        await database.rows(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    await database.close()
    for error in (late.value, broken.value):
        logged(tmp_path, error)
        assert counted(tmp_path)["statement_outcome_unknown"] == {"worker-1": 1}
