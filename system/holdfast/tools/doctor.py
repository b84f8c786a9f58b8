"""``holdfast doctor``: check that a deployment meets the requirements of Holdfast."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from sqlalchemy import text

from holdfast.errors import HoldfastError
from holdfast.settings import Settings
from holdfast.store import revision
from holdfast.store.database import Database
from holdfast.tools.check_result import CheckResult
from holdfast.tools.doctor_redis import examine_redis

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


async def examine(settings: Settings) -> AsyncIterator[CheckResult]:
    """Yield one result per check; a failed check is a result, not an exception."""
    try:
        await revision.check(settings)
        yield CheckResult("ok", "migrations", f"at {revision.NEWEST}")
    except HoldfastError as error:
        yield CheckResult("bad", "migrations", str(error))
    async for result in _postgres(settings):
        yield result
    async for result in examine_redis(settings):
        yield result


async def _postgres(settings: Settings) -> AsyncIterator[CheckResult]:
    database = Database(settings, connections=1, application_name="holdfast-doctor")
    try:
        facts = (await database.rows(_FACTS))[0]
    except HoldfastError as error:
        yield CheckResult("bad", "Postgres", str(error))
        return
    finally:
        await database.close()
    recent = facts["version_number"] >= _POSTGRES_MIN
    yield CheckResult("ok" if recent else "bad", "Postgres", f"{facts['version']} (15 or newer)")
    for name in ("synchronous_commit", "fsync"):
        off = facts[name] == "off"
        detail = f"{facts[name]}" + (
            ": a crash loses tasks that were acknowledged with 201" if off else ""
        )
        yield CheckResult("bad" if off else "ok", name, detail)
    endless = facts["idle_timeout"] == "0"
    advice = ": a half-open connection can hold row locks indefinitely; set 60s" if endless else ""
    yield CheckResult(
        "warning" if endless else "ok",
        "idle_in_transaction_session_timeout",
        f"{facts['idle_timeout']}{advice}",
    )
    # The only use of this machine's clock; no decision depends on it.
    difference = abs((datetime.now(UTC) - facts["clock"]).total_seconds())  # noqa: TID251
    near = difference <= _CLOCK_DIFFERENCE_SECONDS_MAX
    yield CheckResult(
        "ok" if near else "warning",
        "clock",
        f"{difference:.2f} s from the database's clock, which decides when tasks are due",
    )
