"""The Redis user of system/README.md suffices, and the doctor names what another one lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from bench import Bench, bench_for
from waiting import until

from holdfast.devstack.host import free_port, temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedValkey
from holdfast.errors import Misconfigured
from holdfast.handlers import Context
from holdfast.model.dispatch import Hint
from holdfast.model.ids import new_id
from holdfast.model.lifecycle import State
from holdfast.queue.server import unsuitable_redis
from holdfast.scheduler.role import run_scheduler
from holdfast.settings import Settings
from holdfast.tools.check_result import CheckResult
from holdfast.tools.doctor_redis import examine_redis
from holdfast.worker.role import run_worker

README = (Path(__file__).parents[2] / "system" / "README.md").read_text(encoding="utf-8")
# The published user, without its name and password.
RULES = re.findall(r"^ACL SETUSER holdfast on >PASSWORD (.*)$", README, re.MULTILINE)[0].split()
# For redis-py alone, which does without it: its name in CLIENT LIST.
OPTIONAL = "+client|setinfo"


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Yield the harness's client, with an empty log of denied commands."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as server:
        server.acl_log_reset()
        yield server
        server.acl_deluser("limited")


def limit(server: redis.Redis, rules: list[str], settings: Settings) -> Settings:
    """Create a user with these rules; return the settings of roles that connect as this user."""
    words = ("ACL", "SETUSER", "limited", "reset", "on", "nopass", *rules)
    server.execute_command(*words)  # type: ignore[no-untyped-call]
    parts = urlsplit(settings.redis_url)
    url = parts._replace(netloc=f"limited:@{parts.hostname}:{parts.port}").geturl()
    return settings.model_copy(update={"redis_url": url})


async def examined(settings: Settings) -> dict[str, CheckResult]:
    return {result.subject: result async for result in examine_redis(settings)}


async def test_published_user_may_do_all_that_the_roles_do(
    server: redis.Redis, settings: Settings
) -> None:
    async with bench_for(limit(server, RULES, settings)) as bench:
        await _finish_tasks_of_a_dead_worker(bench)
        await bench.queue.poke()
    assert server.acl_log() == [], "no command was denied"


async def test_hints_under_any_prefix_are_drained(settings: Settings) -> None:
    odd = settings.model_copy(update={"redis_prefix": "hold[fast]*?\\ "})
    async with bench_for(odd) as bench:
        await _finish_tasks_of_a_dead_worker(bench)


async def _finish_tasks_of_a_dead_worker(bench: Bench) -> None:
    """Let a worker read hints and die; its consumer must be drained, by no republishing."""

    @bench.registry.task("counted")
    async def counted(ctx: Context, payload: Any) -> int:
        return ctx.attempt

    ids = await bench.offer("counted", "counted")
    await bench.queue.create_generation()  # otherwise all hints would be republished
    ghost = await bench.registered()
    while not await bench.queue.read(ghost, ["default"], 10, block_seconds=0.01):
        pass
    async with bench.scheduler() as scheduler, bench.worker() as worker:
        await bench.until_state(ids, State.SUCCEEDED)

        async def drained() -> bool:
            return await bench.queue.consumers("default") == [worker.id]

        await until(drained)
        assert (scheduler.loops.stalled(), worker.stalled()) == ({}, {})
    assert bench.sql("SELECT max(publishes) FROM tasks") == [(1,)]


async def test_foreign_keys_are_never_scanned(bench: Bench, server: redis.Redis) -> None:
    server.config_resetstat()
    await _finish_tasks_of_a_dead_worker(bench)
    sent = {name.removeprefix("cmdstat_") for name in server.info("commandstats")}
    assert {"xadd", "xreadgroup", "xinfo|consumers"} < sent
    assert not sent & {"scan", "keys", "dbsize", "randomkey"}


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule[0] == "+" and rule != OPTIONAL])
async def test_doctor_names_a_missing_command(
    server: redis.Redis, settings: Settings, rule: str
) -> None:
    lacking = [other for other in RULES if other != rule]
    found = (await examined(limit(server, lacking, settings)))["Redis commands"]
    command = rule[1:].upper().replace("|", " ")
    assert found.grade == "bad"
    assert f"may not run {command}" in found.detail
    assert "; " not in found.detail, "and no other"


async def test_doctor_names_a_missing_key(server: redis.Redis, settings: Settings) -> None:
    keys = ["~holdfast:generation", "~holdfast:hints:default", "+@all"]
    two = settings.model_copy(update={"queues": ("default", "mail")})
    found = (await examined(limit(server, keys, two)))["Redis commands"]
    assert found.grade == "bad"
    assert "XADD on holdfast:hints:mail, holdfast:poke" in found.detail
    assert "holdfast:generation" not in found.detail
    assert "holdfast:hints:default" not in found.detail


async def test_doctor_changes_nothing_and_accepts_the_published_user(
    bench: Bench, server: redis.Redis
) -> None:
    await bench.queue.publish([Hint(new_id(), 0, "default", None) for _ in range(3)])
    await bench.queue.create_generation()
    worker = await bench.registered()
    while not await bench.queue.read(worker, ["default"], 1, block_seconds=0.01):
        pass
    before = _state(server)
    found = await examined(limit(server, RULES, bench.settings))
    assert _state(server) == before
    assert {subject: result.grade for subject, result in found.items()} == {
        "Redis": "ok",
        "Redis commands": "ok",
        "Redis writes": "ok",
        "maxmemory-policy": "warning",  # CONFIG GET is not permitted
    }


def _state(server: redis.Redis) -> Any:
    groups = server.xinfo_groups("holdfast:hints:default")
    return {key: server.dump(key) for key in server.keys()}, groups  # noqa: SIM118 - a command


async def test_doctor_says_that_writes_are_refused(server: redis.Redis, settings: Settings) -> None:
    server.config_set("maxmemory", 1)
    try:
        found = await examined(settings)
    finally:
        server.config_set("maxmemory", 0)
    assert found["Redis writes"].grade == "bad"
    assert "maxmemory" in found["Redis writes"].detail
    server.replicaof("127.0.0.1", "1")
    try:
        found = await examined(settings)
    finally:
        server.replicaof("NO", "ONE")
    assert found["Redis"].detail.startswith("a replica, which refuses writes")
    assert {found[subject].grade for subject in ("Redis", "Redis writes")} == {"bad"}


class _Cluster(EmbeddedValkey):
    def _argv(self, port: int) -> list[str]:
        bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        return [*super()._argv(port), *bus]


@pytest.fixture
def cluster_url(reaper: Reaper) -> Iterator[str]:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    with _Cluster(directory, reaper=reaper) as cluster:
        yield cluster.url()


async def test_cluster_is_refused_everywhere(cluster_url: str, settings: Settings) -> None:
    there = settings.model_copy(update={"redis_url": cluster_url, "health_port": 0})
    found = await examined(there)
    assert found["Redis"].grade == "bad"
    assert "a Redis Cluster" in found["Redis"].detail
    for role in (run_scheduler(there), run_worker(there, [])):
        with pytest.raises(Misconfigured, match="is a Redis Cluster"):
            await role
    async with bench_for(settings) as bench:
        assert "echo" in await bench.store.announced(), "submits are accepted meanwhile"
        assert bench.sql("SELECT dead_reason FROM workers") == [("stopped",)]


async def test_absent_server_does_not_prevent_the_start() -> None:
    assert await unsuitable_redis(Settings(redis_url="redis://127.0.0.1:1/0")) is None
