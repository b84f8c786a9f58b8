"""Upgrade a database to the newest schema (Alembic)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from holdfast.errors import Unavailable
from holdfast.settings import Settings
from holdfast.store.connections import create_engine
from holdfast.store.database import reason

_HAS_SCHEMA = text("SELECT 1 FROM pg_namespace WHERE nspname = :schema")
_SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(database_url: str) -> None:
    """Run all pending migrations in one transaction."""
    asyncio.run(upgrade_in_loop(Settings(database_url=database_url)))


async def upgrade_in_loop(settings: Settings) -> None:
    """Run all pending migrations in one transaction, inside an event loop.

    Raises:
        Unavailable: Postgres cannot be reached or refused; nothing was changed.
    """
    engine = create_engine(
        settings, connections=1, application_name="holdfast-migrate", autocommit=False
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, settings.database_schema)
    except (OSError, DBAPIError) as error:
        raise Unavailable(f"cannot migrate the database: {reason(error)}") from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, schema: str) -> None:
    # Postgres checks the privilege to create a schema even IF NOT EXISTS finds one.
    if not connection.scalar(_HAS_SCHEMA, {"schema": schema}):
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))
    connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))  # of this transaction only
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    command.upgrade(config, "head")
