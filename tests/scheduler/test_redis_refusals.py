"""A Redis that refuses writes while it answers reads: full, demoted, or without its replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
import redis
from bench import Bench
from waiting import until

from holdfast.errors import Unavailable
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import State
from holdfast.queue.hints import HintQueue
from holdfast.settings import Settings

FOREVER = 3600.0
# Each refuses writes, answers reads, and is undone by the second.
REFUSALS = {
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "demoted": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "without replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


def command(server: redis.Redis, *words: str) -> None:
    server.execute_command(*words)  # type: ignore[no-untyped-call]


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Yield the harness's client; afterwards the server takes writes from everyone again."""
    with redis.Redis.from_url(redis_url) as server:
        yield server
        for _, undo in REFUSALS.values():
            command(server, *undo)
        server.acl_deluser("limited")


@pytest.fixture
async def queue(redis_url: str, server: redis.Redis) -> AsyncIterator[HintQueue]:
    queue = HintQueue(Settings(redis_url=redis_url, connect_timeout_seconds=1.0), connections=4)
    yield queue
    await queue.close()


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_generation_is_known_only_while_redis_takes_writes(
    queue: HintQueue, server: redis.Redis, refusal: str
) -> None:
    refuse, undo = REFUSALS[refusal]
    await queue.create_generation()
    command(server, *refuse)
    assert server.exists("holdfast:generation"), "it answers reads"
    with pytest.raises(Unavailable, match="Redis: "):
        await queue.renew_generation()
    command(server, *undo)
    assert await queue.renew_generation()


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_backlog_is_not_dispatched_to_a_redis_that_refuses_writes(
    bench: Bench, server: redis.Redis, refusal: str
) -> None:
    refuse, undo = REFUSALS[refusal]
    async with bench.scheduler(dispatch_batch=10, hint_deadline_seconds=FOREVER) as scheduler:
        await bench.until_state(await bench.submit("a"), State.QUEUED)
        command(server, *refuse)
        ids = await bench.submit(*["a"] * 100)
        failed = {"loop": "dispatch", "result": "failed"}
        await until(lambda: bench.count("holdfast_loop_turns_total", **failed) >= 4)
        queued = bench.sql("SELECT count(*) FROM tasks WHERE state = 'QUEUED'")
        assert queued in ([(1,)], [(11,)]), "at most the batch during which it began"
        command(server, *undo)
        await bench.until_state(ids, State.QUEUED)
        await until(lambda: scheduler.loops.stalled() == {})


async def test_refused_hints_do_not_double_their_deadlines(
    bench: Bench, server: redis.Redis
) -> None:
    """The generation can be written here, and no stream: each publishing fails after its check."""
    rules = ("on", "nopass", "~*", "+@all", "-xadd")
    command(server, "ACL", "SETUSER", "limited", *rules)
    url = bench.settings.redis_url
    limited = url.replace(url.partition("//")[2].partition("@")[0], "limited:")
    await bench.queue.create_generation()
    (task_id,) = await bench.submit("a")
    async with bench.scheduler(
        redis_url=limited, hint_deadline_seconds=0.5, hint_deadline_max_seconds=FOREVER
    ):
        events = "SELECT count(*) FROM task_events WHERE reason = 'republished'"
        await until(lambda: bench.sql(events)[0][0] >= 4)
        await until(lambda: bench.sql("SELECT publishes FROM tasks") == [(0,)])
        late = "SELECT hint_deadline > clock_timestamp() + interval '0.5 s' FROM tasks"
        assert bench.sql(late) == [(False,)]
        command(server, "ACL", "SETUSER", "limited", "+xadd")
        await until(lambda: bool(server.exists("holdfast:hints:default")))
    assert await bench.state(task_id) is State.QUEUED


async def test_connections_to_a_demoted_server_are_dropped(
    queue: HintQueue, server: redis.Redis
) -> None:
    """It keeps its connections, but the address may lead to another server by now."""
    command(server, *REFUSALS["demoted"][0])
    waiting = asyncio.create_task(queue.wait_poke("$", 0.3))
    idle = asyncio.create_task(queue.consumers("default"))
    await idle
    assert len(_connections(server)) >= 1
    with pytest.raises(Unavailable, match="read only replica"):
        await queue.publish([Hint(uuid4(), 0, "default", None)])
    assert await waiting == "$", "a blocked read of it is let end"
    await until(lambda: _connections(server) == [])


def _connections(server: redis.Redis) -> list[str]:
    mine = server.client_id()
    return [client["id"] for client in server.client_list() if int(client["id"]) != mine]
