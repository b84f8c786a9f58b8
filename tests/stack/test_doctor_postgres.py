"""`holdfast doctor` on Postgres: what it names of a real server and of a role's permissions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from holdfast.settings import Settings
from holdfast.tools.check_result import CheckResult
from holdfast.tools.doctor_postgres import examine_postgres

ROLE = "holdfast_limited"


async def examined(settings: Settings, url: str = "") -> dict[str, CheckResult]:
    changed = settings.model_copy(update={"database_url": url or settings.database_url})
    return {result.subject: result async for result in examine_postgres(changed)}


@pytest.fixture
def limited(settings: Settings) -> Iterator[str]:
    """The URL of a role that may not read effects, change workers or store requests."""
    parts = urlsplit(settings.database_url)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'limited'")
        connection.execute(f"GRANT USAGE ON SCHEMA holdfast TO {ROLE}")
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA holdfast TO {ROLE}")
        connection.execute(f"REVOKE ALL ON effects FROM {ROLE}")
        connection.execute(f"REVOKE UPDATE ON workers FROM {ROLE}")
        connection.execute(f"REVOKE INSERT ON requests FROM {ROLE}")
        yield parts._replace(netloc=f"{ROLE}:limited@{parts.hostname}:{parts.port}").geturl()
        connection.execute(f"DROP OWNED BY {ROLE}")
        connection.execute(f"DROP ROLE {ROLE}")


async def test_missing_permissions_are_named(settings: Settings, limited: str) -> None:
    whole = (await examined(settings))["permissions"]
    assert (whole.grade, whole.detail) == ("ok", "every statement of the roles is permitted")
    partial = (await examined(settings, limited))["permissions"]
    assert partial.grade == "bad"
    assert set(re.findall(r"permission denied for table (\w+)", partial.detail)) == {
        "effects",
        "requests",
        "workers",
    }


async def test_nothing_is_changed(settings: Settings) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        before = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()
        await examined(settings)
        for table in ("tasks", "task_events", "effects", "workers", "stale_writes"):
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)
        assert before == (None,)


async def test_limits_and_defaults_are_named(settings: Settings) -> None:
    options = "-c%20statement_timeout%3D50%20-c%20default_transaction_isolation%3Dserializable"
    found = await examined(settings, f"{settings.database_url}?options={options}")
    assert found["statement_timeout"].grade == "warning"
    assert "50 ms: Postgres cancels longer statements" in found["statement_timeout"].detail
    assert found["default_transaction_isolation"].grade == "ok"
    assert found["default_transaction_isolation"].detail.startswith("serializable: works")
    assert found["connection pooler"].detail == "none"
    read_only = "-c%20default_transaction_read_only%3Don"
    found = await examined(settings, f"{settings.database_url}?options={read_only}")
    assert found["writes"].grade == "bad"


async def test_unreachable_server_and_invalid_address_are_one_line(settings: Settings) -> None:
    for url in ("postgresql://x@127.0.0.1:1/x", "postgresql://x@127.0.0.1:0/x"):
        found = await examined(settings, url)
        assert found["Postgres"].grade == "bad"
        assert len(found["Postgres"].detail.splitlines()) == 1
