"""The checks of ``holdfast doctor`` on Redis: what answers, what it permits, what it evicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from redis.exceptions import ExecAbortError, NoPermissionError, ResponseError

from holdfast.errors import HoldfastError
from holdfast.queue.connection import connect, guarded
from holdfast.queue.hints import GROUP, generation_key, poke_key, stream_key
from holdfast.queue.server import RedisServer, describe
from holdfast.settings import Settings
from holdfast.tools.check_result import CheckResult

# No entry has the first id, and no XADD may use the second: no command below changes anything.
# A server checks permissions, and whether it takes writes, before it looks at ids and groups.
_NO_ENTRY, _NO_ID = "0-1", "0-0"
_NO_GROUP, _NO_CONSUMER = "holdfast-doctor", "holdfast-doctor"
_POLICY = "maxmemory-policy"


async def examine_redis(settings: Settings) -> AsyncIterator[CheckResult]:
    """Yield one result per check; a failed check is a result, not an exception."""
    redis = connect(settings, 1)
    try:
        async with guarded(redis, settings.connect_timeout_seconds):
            server = await describe(redis)
        yield _suitable(server)
        if server.unsuitable:
            return
        async with guarded(redis, settings.connect_timeout_seconds):
            policy = await _memory_policy(redis)
            denied, refusal = await _try_commands(redis, settings)
    except HoldfastError as error:
        yield CheckResult("bad", "Redis", str(error))
        return
    finally:
        await redis.aclose()
    yield _permitted(denied)
    yield CheckResult("bad" if refusal else "ok", "Redis writes", refusal or "accepted")
    fits = policy == "noeviction"
    advice = (
        "" if fits else ": an evicted hint delays its task until the hint deadline; set noeviction"
    )
    yield CheckResult("ok" if fits else "warning", _POLICY, f"{policy}{advice}")


def commands(settings: Settings) -> list[tuple[str, ...]]:
    """Return every command that the roles send, for each key, in a form that changes nothing."""
    generation, poke = generation_key(settings), poke_key(settings)
    tried: list[tuple[str, ...]] = [
        ("SET", generation, "1", "XX"),
        ("XADD", poke, _NO_ID, "p", ""),
        ("XREAD", "COUNT", "1", "STREAMS", poke, "$"),
    ]
    for queue in settings.queues:
        stream = stream_key(settings, queue)
        tried += [
            ("XADD", stream, _NO_ID, "id", ""),
            ("XGROUP CREATE", stream, GROUP, "no id", "MKSTREAM"),
            ("XREADGROUP", "GROUP", _NO_GROUP, _NO_CONSUMER, "STREAMS", stream, ">"),
            ("XACK", stream, _NO_GROUP, _NO_ENTRY),
            ("XDEL", stream, _NO_ENTRY),
            ("XINFO CONSUMERS", stream, _NO_GROUP),
            ("XINFO GROUPS", stream),
            ("XLEN", stream),
            ("WATCH", stream),
            ("UNWATCH",),
            ("XPENDING", stream, _NO_GROUP, "-", "+", "1"),
            ("XRANGE", stream, _NO_ENTRY, _NO_ENTRY),
            ("XGROUP DELCONSUMER", stream, _NO_GROUP, _NO_CONSUMER),
        ]
    no_stream = stream_key(settings, "")  # no queue has an empty name
    return [*tried, ("DEL", no_stream), ("MULTI",), ("EXEC",)]


async def _try_commands(redis: Any, settings: Settings) -> tuple[dict[str, set[str]], str | None]:
    """Return the commands denied, each with its keys, and why the server refuses writes."""
    denied: dict[str, set[str]] = defaultdict(set)
    refusal = None
    keys = {generation_key(settings), poke_key(settings)}
    keys.update(stream_key(settings, queue) for queue in settings.queues)
    for command in commands(settings):
        try:
            await redis.execute_command(*command)
        except (NoPermissionError, ExecAbortError):  # the latter for EXEC itself
            denied[command[0]] |= keys.intersection(command)
        except ResponseError as error:
            if command[0] in {"SET", "XADD"} and _NO_ID not in str(error):
                refusal = refusal or str(error)
    return denied, refusal


async def _memory_policy(redis: Any) -> str:
    try:
        found = await redis.config_get(_POLICY)
    except ResponseError:  # managed servers hide their configuration
        return "unknown"
    return str(next(iter(found.values()), "unknown"))


def _suitable(server: RedisServer) -> CheckResult:
    if server.unsuitable:
        return CheckResult("bad", "Redis", server.unsuitable)
    if server.role not in {"master", "unknown"}:
        detail = f"a {server.role}, which refuses writes; HOLDFAST_REDIS_URL must name its primary"
        return CheckResult("bad", "Redis", detail)
    return CheckResult("ok", "Redis", f"{server.version}, {server.mode}")


def _permitted(denied: dict[str, set[str]]) -> CheckResult:
    if not denied:
        return CheckResult("ok", "Redis commands", "each command of every role is permitted")
    missing = "; ".join(
        f"{command} on {', '.join(sorted(keys))}" if keys else command
        for command, keys in denied.items()
    )
    return CheckResult(
        "bad",
        "Redis commands",
        f"the user of HOLDFAST_REDIS_URL may not run {missing}: "
        "grant these (system/README.md has the ACL)",
    )
