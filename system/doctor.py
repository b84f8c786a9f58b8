"""``holdfast doctor``: is everything around this process as Holdfast needs it?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import text

from system import revision
from system.database import Database
from system.errors import HoldfastError
from system.queue import HintQueue
from system.settings import Settings

_POSTGRES_MIN = 150000
_CLOCK_DIFFERENCE_SECONDS_MAX = 2.0

_FACTS = text("""
SELECT current_setting('server_version_num')::int AS version_number,
  current_setting('server_version') AS version,
  current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('fsync') AS fsync,
  current_setting('idle_in_transaction_session_timeout') AS idle_timeout,
  current_setting('max_connections')::int AS connections,
  clock_timestamp() AS clock""")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``bad`` breaks a promise, ``warning`` weakens one."""

    grade: Literal["ok", "warning", "bad"]
    subject: str
    detail: str


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Yields one finding per check, worst news included; raises nothing for what it finds."""
    try:
        await revision.check(settings)
        yield Finding("ok", "migrations", f"at {revision.NEWEST}")
    except HoldfastError as error:
        yield Finding("bad", "migrations", str(error))
    async for finding in _postgres(settings):
        yield finding
    async for finding in _redis(settings):
        yield finding


async def _postgres(settings: Settings) -> AsyncIterator[Finding]:
    database = Database(settings, connections=1, application_name="holdfast-doctor")
    try:
        facts = (await database.rows(_FACTS))[0]
    except HoldfastError as error:
        yield Finding("bad", "Postgres", str(error))
        return
    finally:
        await database.close()
    recent = facts["version_number"] >= _POSTGRES_MIN
    yield Finding("ok" if recent else "bad", "Postgres", f"{facts['version']} (15 or newer)")
    for name in ("synchronous_commit", "fsync"):
        off = facts[name] == "off"
        detail = f"{facts[name]}" + (": a crash loses tasks that were answered 201" if off else "")
        yield Finding("bad" if off else "ok", name, detail)
    endless = facts["idle_timeout"] == "0"
    advice = ": a half-open connection can hold row locks for ever; set 60s" if endless else ""
    yield Finding(
        "warning" if endless else "ok",
        "idle_in_transaction_session_timeout",
        f"{facts['idle_timeout']}{advice}",
    )
    # The only comparison with this machine's clock: nothing is decided by it.
    difference = abs((datetime.now(UTC) - facts["clock"]).total_seconds())  # noqa: TID251
    near = difference <= _CLOCK_DIFFERENCE_SECONDS_MAX
    yield Finding(
        "ok" if near else "warning",
        "clock",
        f"{difference:.2f} s apart from the database's, which is the one that decides",
    )


async def _redis(settings: Settings) -> AsyncIterator[Finding]:
    queue = HintQueue(settings, connections=1)
    try:
        policy = await queue.memory_policy()
    except HoldfastError as error:
        yield Finding("bad", "Redis", str(error))
        return
    finally:
        await queue.close()
    fits = policy == "noeviction"
    advice = "" if fits else ": hints that are evicted wait for their deadline; set noeviction"
    yield Finding("ok" if fits else "warning", "maxmemory-policy", f"{policy}{advice}")
