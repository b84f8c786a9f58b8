"""The checks of ``holdfast doctor`` on Postgres: schema, durability, permissions, limits, clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from holdfast.errors import HoldfastError
from holdfast.settings import Settings
from holdfast.store import revision
from holdfast.store.connections import is_pooler_between
from holdfast.store.database import Database
from holdfast.store.statements import statements
from holdfast.tools.check_result import CheckResult

_POSTGRES_MIN = 150000
_CLOCK_DIFFERENCE_SECONDS_MAX = 2.0
_STATEMENT_TIMEOUT_MILLISECONDS_MIN = 1000

_FACTS = text("""
SELECT current_setting('server_version_num')::int AS version_number,
  current_setting('server_version') AS version,
  current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('fsync') AS fsync,
  current_setting('idle_in_transaction_session_timeout') AS idle_timeout,
  current_setting('default_transaction_isolation') AS isolation,
  current_setting('default_transaction_read_only')::bool OR pg_is_in_recovery() AS read_only,
  (SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout') AS timeout_milliseconds,
  clock_timestamp() AS clock""")


async def examine_postgres(settings: Settings) -> AsyncIterator[CheckResult]:
    """Yield one result per check; a failed check is a result, not an exception."""
    try:
        await revision.check(settings)
        migrated = CheckResult("ok", "migrations", f"at {revision.NEWEST}")
    except HoldfastError as error:
        migrated = CheckResult("bad", "migrations", str(error))
    yield migrated
    try:
        database = Database(settings, connections=1, application_name="holdfast-doctor")
    except HoldfastError as error:
        yield CheckResult("bad", "Postgres", str(error))
        return
    try:
        facts = (await database.rows(_FACTS))[0]
        refused = await _refused(database) if migrated.grade == "ok" else []
    except HoldfastError as error:
        yield CheckResult("bad", "Postgres", str(error))
        return
    finally:
        await database.close()
    for result in _durability(facts):
        yield result
    if migrated.grade == "ok":
        detail = "; ".join(refused) or "every statement of the roles is permitted"
        yield CheckResult("bad" if refused else "ok", "permissions", detail)
    for result in (*_limits(facts), _pooler(pooled=is_pooler_between(database.engine))):
        yield result
    # The only use of this machine's clock; no decision depends on it.
    difference = abs((datetime.now(UTC) - facts["clock"]).total_seconds())  # noqa: TID251
    near = difference <= _CLOCK_DIFFERENCE_SECONDS_MAX
    yield CheckResult(
        "ok" if near else "warning",
        "clock",
        f"{difference:.2f} s from the database's clock, which decides when tasks are due",
    )


async def _refused(database: Database) -> list[str]:
    """Plan every statement of the roles, which checks permissions; return the distinct errors."""
    found: dict[str, None] = {}
    for statement in statements().values():
        parameters = dict.fromkeys(statement.compile().params)
        try:
            await database.rows(text(f"EXPLAIN {statement.text}"), parameters)
        except HoldfastError as error:
            found[str(error)] = None
    return list(found)


def _durability(facts: dict[str, Any]) -> Iterator[CheckResult]:
    recent = facts["version_number"] >= _POSTGRES_MIN
    yield CheckResult("ok" if recent else "bad", "Postgres", f"{facts['version']} (15 or newer)")
    for name in ("synchronous_commit", "fsync"):
        off = facts[name] == "off"
        detail = f"{facts[name]}" + (
            ": a crash loses tasks that were acknowledged with 201" if off else ""
        )
        yield CheckResult("bad" if off else "ok", name, detail)
    if facts["read_only"]:
        yield CheckResult("bad", "writes", "refused: this server is a standby, or read only")


def _limits(facts: dict[str, Any]) -> Iterator[CheckResult]:
    endless = facts["idle_timeout"] == "0"
    advice = ": a half-open connection can hold row locks indefinitely; set 60s" if endless else ""
    yield CheckResult(
        "warning" if endless else "ok",
        "idle_in_transaction_session_timeout",
        f"{facts['idle_timeout']}{advice}",
    )
    limit = facts["timeout_milliseconds"]
    short = 0 < limit < _STATEMENT_TIMEOUT_MILLISECONDS_MIN
    advice = ": Postgres cancels longer statements; batches shrink until they fit" if short else ""
    shown = f"{limit} ms" if limit else "none"
    yield CheckResult("warning" if short else "ok", "statement_timeout", f"{shown}{advice}")
    usual = facts["isolation"] == "read committed"
    note = "" if usual else ": works; statements that conflict are sent again"
    yield CheckResult("ok", "default_transaction_isolation", f"{facts['isolation']}{note}")


def _pooler(*, pooled: bool) -> CheckResult:
    if not pooled:
        return CheckResult("ok", "connection pooler", "none")
    detail = (
        "between (such as PgBouncer): Postgres plans each statement anew; in session mode the pool "
        "must be as large as the connections of all roles together"
    )
    return CheckResult("ok", "connection pooler", detail)
