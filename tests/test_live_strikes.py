"""Faults of processes and servers really strike, and say so only if they did."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from chaos.live.actors import Actor, Command, process_state
from chaos.live.processes import ProcessStrike
from chaos.live.servers import ServerStrike
from chaos.live.witness import Incarnation, Witness
from chaos.plan import FaultPlan
from system.embedded import EmbeddedPostgres, EmbeddedValkey
from system.guardian import Guardian
from system.machine import temporary_directory

ROLE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
while True:
    time.sleep(0.01)
"""


class FakeWitness:
    """Knows one incarnation per process start, and whom the test declares dead."""

    def __init__(self) -> None:
        self.actor: Actor | None = None
        self.dead = False

    async def incarnation(self, label: str) -> Incarnation:
        assert self.actor is not None
        return Incarnation(f"{label} {self.actor.starts}", dead=False, dead_reason=None)

    async def is_dead(self, worker_id: str) -> bool:
        return self.dead

    async def running(self, label: str) -> int:
        return 1


class Stage:
    """One actor and a witness."""

    def __init__(self, directory: Path, guardian: Guardian) -> None:
        self.directory = directory
        self.guardian = guardian
        self.witness = FakeWitness()
        self.actor: Actor | None = None

    async def play(self, name: str = "worker-1") -> Actor:
        log = self.directory / "log"
        command = Command([sys.executable, "-c", ROLE], {}, self.directory, log, None)
        self.actor = self.witness.actor = Actor(name, command, self.guardian, lambda _: None)
        self.actor.start()
        async with asyncio.timeout(5):
            while "up" not in log.read_text():
                await asyncio.sleep(0.01)
        return self.actor

    async def struck(
        self, fault: str, *, hold: float = 0.1, lease: float = 5.0
    ) -> tuple[bool, dict[str, Any]]:
        assert self.actor is not None
        plan = FaultPlan.model_validate({"fault": fault, "target": self.actor.name, "at": 0})
        witness = cast("Witness", self.witness)
        strike = ProcessStrike(plan, self.actor, witness, lease)
        await strike.busy()
        return await strike.run(lambda: asyncio.sleep(hold))


@pytest.fixture
async def stage(tmp_path: Path, guardian: Guardian) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, guardian)
    yield stage
    assert stage.actor is not None
    await stage.actor.stop(1)


@pytest.mark.parametrize(
    ("fault", "code"), [("kill", -signal.SIGKILL), ("terminate", 0), ("restart", 0)]
)
async def test_an_end_is_felt_by_its_exit_and_by_the_next_incarnation(
    stage: Stage, fault: str, code: int
) -> None:
    actor = await stage.play()
    pid = actor.pid
    felt, evidence = await stage.struck(fault)
    assert felt
    assert (evidence["pid"], evidence["exit"]) == (pid, code)
    assert (evidence["incarnation"], evidence["replaced_by"]) == ("worker-1 1", "worker-1 2")
    assert actor.pid != pid


async def test_a_scheduler_has_no_incarnation_to_be_replaced(stage: Stage) -> None:
    await stage.play("scheduler-1")
    felt, evidence = await stage.struck("kill")
    assert felt
    assert evidence["exit"] == -signal.SIGKILL


async def test_a_pause_within_the_lease_is_felt_by_the_state_alone(stage: Stage) -> None:
    actor = await stage.play()
    felt, evidence = await stage.struck("pause", hold=0.1, lease=5.0)
    assert felt
    assert evidence["stopped"]
    assert process_state(actor.pid) != "T"


@pytest.mark.parametrize("dead", [True, False])
async def test_a_pause_past_the_lease_is_felt_only_if_somebody_noticed(
    stage: Stage, *, dead: bool
) -> None:
    await stage.play()
    stage.witness.dead = dead
    felt, evidence = await stage.struck("pause", hold=0.2, lease=0.1)
    assert felt is dead
    assert evidence["marked_dead"] is dead


async def test_a_pause_that_somebody_else_ended_is_not_felt(stage: Stage) -> None:
    actor = await stage.play()
    plan = FaultPlan.model_validate({"fault": "pause", "target": "worker-1", "at": 0})

    async def hold() -> None:
        actor.resume()
        async with asyncio.timeout(5):
            while process_state(actor.pid) == "T":
                await asyncio.sleep(0.01)

    witness = cast("Witness", stage.witness)
    felt, _ = await ProcessStrike(plan, actor, witness, 5.0).run(hold)
    assert not felt


class Servers:
    """Servers of this module's own: they are killed here."""

    def __init__(self, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
        self.postgres = postgres
        self.valkey = valkey


@pytest.fixture(scope="module")
def servers(guardian: Guardian) -> Iterator[Servers]:
    directory = temporary_directory("holdfast-test-")
    guardian.own_directory(directory)
    postgres = EmbeddedPostgres(directory / "postgres", guardian=guardian)
    valkey = EmbeddedValkey(directory / "valkey", guardian=guardian)
    with postgres, valkey:
        yield Servers(postgres, valkey)


@pytest.fixture
async def strike(servers: Servers) -> AsyncIterator[ServerStrike]:
    witness = Witness(servers.postgres.url("postgres"))
    yield ServerStrike(servers.postgres, servers.valkey, witness)
    await witness.close()


async def at_once() -> None:
    return


@pytest.mark.parametrize("fault", ["kill", "restart"])
async def test_postgres_is_down_for_a_while_and_comes_back_with_its_data(
    servers: Servers, strike: ServerStrike, fault: str
) -> None:
    url = servers.postgres.url("postgres")
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE TABLE kept_{fault} ()")

    async def hold() -> None:
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(url, timeout=2)

    felt, evidence = await strike.run(fault, "postgres", hold)
    assert felt
    assert evidence["pid"] != evidence["replaced_by"]
    connection.terminate()
    again = await asyncpg.connect(url)
    await again.execute(f"SELECT * FROM kept_{fault}")
    await again.close()


async def test_all_backends_but_the_witness_are_terminated(
    servers: Servers, strike: ServerStrike
) -> None:
    assert await strike.run("terminate_backends", "postgres", at_once) == (False, {"backends": 0})
    connection = await asyncpg.connect(servers.postgres.url("postgres"))
    felt, evidence = await strike.run("terminate_backends", "postgres", at_once)
    assert (felt, evidence) == (True, {"backends": 1})
    async with asyncio.timeout(5):
        while not connection.is_closed():
            await asyncio.sleep(0.01)
    connection.terminate()


async def test_a_flush_is_felt_if_there_was_something(
    servers: Servers, strike: ServerStrike
) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.flushall()
        assert await strike.run("flush", "redis", at_once) == (False, {"keys": 0})
        await redis.set("a", 1)
        assert await strike.run("flush", "redis", at_once) == (True, {"keys": 1})
        assert await redis.dbsize() == 0


async def test_clients_of_redis_are_disconnected(servers: Servers, strike: ServerStrike) -> None:
    async with Redis.from_url(servers.valkey.url(), single_connection_client=True) as redis:
        before = await redis.client_id()
        felt, evidence = await strike.run("client_kill", "redis", at_once)
        assert (felt, evidence) == (True, {"connections": 1})
        try:
            after = await redis.client_id()
        except RedisConnectionError:
            after = None
        assert after != before


async def test_redis_comes_back_empty(servers: Servers, strike: ServerStrike) -> None:
    async with Redis.from_url(servers.valkey.url()) as redis:
        await redis.set("a", 1)
    felt, _ = await strike.run("restart_empty", "redis", at_once)
    assert felt
    async with Redis.from_url(servers.valkey.url()) as redis:
        assert await redis.dbsize() == 0
