"""The witnesses tell what is in the database, in the vocabulary of histories."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from waiting import until

from chaos.live.hint_watch import HintWatch
from chaos.plan import After
from chaos.records import Event, SqlEffect, StaleWrite, Task, Worker, decode, encode
from chaos.sightings import (
    _UNANSWERED,
    SeenHint,
    late_hints,
    log_sightings,
    sightings,
)
from chaos.tasks.sql import CHAOS_EFFECTS
from chaos.vocabulary import SOMETIMES
from chaos.witness import Witness
from system.embedded import EmbeddedValkey
from system.errors import Unavailable
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


async def test_incarnations_are_told_in_the_order_in_which_they_began(
    store: Store, witness: Witness
) -> None:
    assert await witness.incarnations("worker-1") == []
    began = (await witness.clock()).timestamp()
    first, second, other = new_id(), new_id(), new_id()
    await store.register(first, "worker-1", ["default"], [])
    await store.register(other, "worker-2", ["default"], [])
    (found,) = await witness.incarnations("worker-1")
    assert (found.worker_id, found.dead_reason) == (str(first), None)
    await store.retire(first)
    await store.register(second, "worker-1", ["default"], [])
    old, new = await witness.incarnations("worker-1")
    assert [old.worker_id, new.worker_id] == [str(first), str(second)]
    assert old.dead_reason
    assert new.dead_reason is None
    # Unix time of the database's clock, which strikes compare with their own.
    ended = (await witness.clock()).timestamp()
    assert began <= old.started < new.started <= ended


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


def test_a_hint_is_late_if_its_epoch_was_gone_when_it_arrived() -> None:
    events = [event("a", 0, 0), event("a", 10, 1), event("b", 0, 0)]
    on_time, late = SeenHint(ZERO + 9, "a", 0), SeenHint(ZERO + 11, "a", 0)
    never_claimed = SeenHint(ZERO + 50, "b", 0)
    assert late_hints([on_time, late, never_claimed], events) == [late]


SINCE = "2026-01-01T00:00:10.500000Z"


def line(second: float, **more: object) -> str:
    """A line as a role writes it (observability/logs.py)."""
    at = datetime.fromtimestamp(ZERO + second, UTC).isoformat(timespec="microseconds")
    entry = {"level": "warning", "timestamp": at.replace("+00:00", "Z")} | more
    return json.dumps(entry) + "\n"


# What a role says of each; the words are compared with the product's own below.
SAID: dict[str, list[dict[str, object]]] = {
    "statement_outcome_unknown": [
        {"event": "turn failed", "error": "Postgres did not answer within 2.0 s"},
        {
            "event": "turn failed",
            "error": "the connection to Postgres broke while waiting for a reply: x",
        },
    ],
    "claim_unknown": [{"event": "claim of unknown outcome was committed", "grants": 2}],
    "finish_unknown": [{"event": "finish of unknown outcome was committed", "ends": 1}],
    "submit_unknown": [{"event": "submit of unknown outcome was committed", "task_id": "t"}],
    "amnesia_healed": [{"event": "redis is empty, publishing all hints again", "queued": 0}],
    "redis_given_up": [{"event": "turn failed", "error": "Redis: no answer within 5.0 s"}],
}
# Near misses: said of something else.
INNOCENT: list[dict[str, object]] = [
    {"event": "worker started"},
    {"event": "turn failed", "error": "cannot reach Postgres: TimeoutError"},
    {"event": "turn failed", "error": "Redis: Error 111 connecting to 127.0.0.1:1."},
    {"event": "redis is empty"},
    {"error": None},
]


def held(logs: Path, since: str = SINCE) -> dict[str, dict[str, int]]:
    """How often whoever said it, by sighting."""
    found = log_sightings(logs, since)
    assert all(record.held == bool(record.evidence) for record in found)
    return {record.name: record.evidence for record in found}


@pytest.mark.parametrize("name", SAID)
def test_each_sighting_is_found_in_the_logs_of_the_roles(tmp_path: Path, name: str) -> None:
    innocent = "".join(line(20, **entry) for entry in INNOCENT)
    told = "".join(line(20 + n, **entry) for n, entry in enumerate(SAID[name]))
    (tmp_path / "worker-1.log").write_text(innocent + told + told)
    (tmp_path / "api-2.log").write_text(told)
    (tmp_path / "scheduler-1.log").write_text(innocent)
    # Helpers have no number; they are no roles, whatever they say.
    (tmp_path / "toxiproxy.log").write_text(told)
    once = len(SAID[name])
    seen = held(tmp_path)
    assert seen.pop(name) == {"api-2": once, "worker-1": 2 * once}
    assert seen == {other: {} for other in SAID if other != name}


def test_what_was_said_before_the_run_does_not_count(tmp_path: Path) -> None:
    # Redis is empty at the start of every run: a scheduler says so.
    (entry,) = SAID["amnesia_healed"]
    (tmp_path / "scheduler-1.log").write_text(line(10.4, **entry) + line(10.499999, **entry))
    assert held(tmp_path)["amnesia_healed"] == {}
    (tmp_path / "scheduler-2.log").write_text(line(10.4, **entry) + line(10.5, **entry))
    assert held(tmp_path)["amnesia_healed"] == {"scheduler-2": 1}


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    (entry,) = SAID["claim_unknown"]
    whole = line(20, **entry)
    timeless = json.dumps(entry) + "\n"
    log = b"Traceback (most recent call last):\n[]\n3\n\xff\xfe\n\n" + whole[:-20].encode()
    log += f"\n{timeless}{whole}{whole[:40]}".encode()
    (tmp_path / "worker-1.log").write_bytes(log)
    assert held(tmp_path)["claim_unknown"] == {"worker-1": 1}


def test_all_sightings_of_the_vocabulary_are_told_of_every_run(tmp_path: Path) -> None:
    (tmp_path / "worker-1.log").write_text(line(20, **SAID["redis_given_up"][0]))
    hints = [SeenHint(ZERO + 11, "a", 0)]
    records = sightings(hints, [event("a", 0, 0), event("a", 10, 1)], tmp_path, SINCE)
    told = {record.name: record.held for record in records}
    assert {name for name in told if told[name]} == {"stale_hint_delivered", "redis_given_up"}
    assert {*told} == {name for name, says in SOMETIMES.items() if "seen by the arena" in says}
    assert [decode(encode(record)) for record in records] == records


def test_the_words_that_are_looked_for_are_those_of_the_product() -> None:
    """If the product says it otherwise one day, this arena must learn it."""
    root = Path(__file__).parent.parent / "system"
    source = "".join(path.read_text() for path in sorted(root.rglob("*.py")))
    for name, entries in SAID.items():
        if name.endswith("_unknown") and name != "statement_outcome_unknown":
            assert all(f'"{entry["event"]}"' in source for entry in entries), name
    assert f'"{SAID["amnesia_healed"][0]["event"]}"' in source
    assert all(text in (root / "database.py").read_text() for text in _UNANSWERED)


async def test_redis_that_says_nothing_is_given_up_in_these_words(tmp_path: Path) -> None:
    """A half-open connection, and the error that its queue raises."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the role gives up
        writer.close()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    url = f"redis://127.0.0.1:{port}/0"
    queue = HintQueue(Settings(redis_url=url, connect_timeout_seconds=0.1), connections=1)
    with pytest.raises(Unavailable) as caught:
        await queue.publish([Hint(new_id(), 0, "default", None)])
    await queue.close()
    silent.close()
    (tmp_path / "worker-1.log").write_text(line(20, event="turn failed", error=str(caught.value)))
    assert held(tmp_path)["redis_given_up"] == {"worker-1": 1}
