"""Brings a database to the newest schema, and tells whether one is there (Alembic)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, ProgrammingError

from system.database import Database, create_engine
from system.errors import Misconfigured, Unavailable
from system.settings import Settings

_SCRIPTS = Path(__file__).parent / "migrations"


def newest() -> str:
    """The revision this code was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise Misconfigured(f"no migrations found in {_SCRIPTS}: the installation is broken")
    return head


def upgrade(database_url: str) -> None:
    """Runs every missing migration in one transaction; does nothing where none is missing."""
    asyncio.run(upgrade_in_loop(Settings(database_url=database_url)))


async def upgrade_in_loop(settings: Settings) -> None:
    """``upgrade`` for callers that are inside an event loop.

    Raises:
        Unavailable: Postgres cannot be reached, or refused; nothing was changed.
    """
    engine = create_engine(
        settings, connections=1, application_name="holdfast-migrate", autocommit=False
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)
    except (OSError, DBAPIError) as error:
        reason = getattr(error, "orig", None) or error
        raise Unavailable(f"cannot migrate the database: {reason}") from error
    finally:
        await engine.dispose()


async def check(settings: Settings) -> None:
    """Raises Misconfigured where the database is unmigrated or newer than this code."""
    database = Database(settings, connections=1, application_name="holdfast-check")
    try:
        found = await database.call(_revision)
    finally:
        await database.close()
    expected = newest()
    if found == expected:
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found is None or found in known:
        raise Misconfigured(
            f"the database is at migration {found or 'none'}, this code needs {expected}: "
            "run `holdfast migrate`"
        )
    raise Misconfigured(
        f"the database is at migration {found}, which this code does not know (it needs "
        f"{expected}): start the newer release of Holdfast"
    )


def _revision(connection: Connection) -> str | None:
    try:
        row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    except ProgrammingError:
        return None  # no such table: never migrated
    return str(row[0]) if row else None


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    return config
