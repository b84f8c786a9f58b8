"""A demoted Valkey keeps its connections, answers reads and refuses writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from chaos.live.servers import ServerFault
from chaos.nemesis.demotable_valkey import DemotableValkey
from chaos.observers.database import DatabaseObserver
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres


@pytest.fixture
def valkey(reaper: Reaper) -> Iterator[DemotableValkey]:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    with DemotableValkey(directory, reaper=reaper) as server:
        yield server


@pytest.fixture
def postgres(reaper: Reaper) -> EmbeddedPostgres:
    """Return a server that the fault does not touch, and that is never started."""
    return EmbeddedPostgres(temporary_directory("holdfast-test-"), reaper=reaper)


async def end_immediately() -> None:
    return


async def test_demoted_redis_keeps_its_connections_and_refuses_writes(
    valkey: DemotableValkey, postgres: EmbeddedPostgres
) -> None:
    url = valkey.url()
    fault = ServerFault(postgres, valkey, DatabaseObserver(postgres.url()))
    async with Redis.from_url(url, single_connection_client=True) as old:
        await old.set("a", 1)

        async def hold() -> None:
            assert await old.get("a") == b"1"
            with pytest.raises(ReadOnlyError):
                await old.set("a", 2)
            async with Redis.from_url(url) as new:
                assert await new.dbsize() == 0
                await new.set("b", 1)

        observed, evidence = await fault.run("demote", "redis", hold)
        assert (observed, evidence) == (True, {"readonly": 1, "moved": True})
        with pytest.raises(ReadOnlyError):
            await old.set("a", 2)
        observed, evidence = await fault.run("demote", "redis", end_immediately)
        assert (observed, evidence) == (False, {"readonly": 0, "moved": True}), "nobody wrote"
        valkey.retire()
        with pytest.raises(RedisConnectionError):
            await old.get("a")
