"""Array parameters, on a real Postgres."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from holdfast.settings import Settings
from holdfast.store.connections import create_engine

VALUES = {
    "bytea": [b"\x00\xff", None, b""],
    "int": [-1, 2**31 - 1, None],
    "float8": [0.1, float("inf"), None],
    "timestamptz": [datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), None],
    "uuid": [UUID(int=0), None, UUID("019b76da-a92c-70fd-97d9-c2cbb3b27c91")],
    "text": ["", "{,}", None],
}


async def test_array_parameters_need_no_catalogue_query(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def introspect(*_: object) -> None:
        pytest.fail("asyncpg asked Postgres for types")

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", introspect)
    engine = create_engine(settings, connections=1, application_name="test", autocommit=True)
    try:
        async with engine.connect() as connection:
            for kind, values in VALUES.items():
                query = text(f"SELECT CAST(:sent AS {kind}[])")
                answer = await connection.execute(query, {"sent": values})
                assert answer.scalar_one() == values, kind
    finally:
        await engine.dispose()
