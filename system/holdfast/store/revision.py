"""Check that the database has the schema this code was written for.

Reads Alembic's own row without importing Alembic, which would add 0.3 s to the start of every role.
"""

from __future__ import annotations

from sqlalchemy import text

from holdfast.errors import Misconfigured
from holdfast.settings import Settings
from holdfast.store.database import Database, Unmigrated

# The newest of migrations/versions (a test compares them). Revisions are four-digit numbers, so the
# greater one is the newer.
NEWEST = "0001"

_REVISION = text("SELECT version_num FROM alembic_version")


async def check(settings: Settings) -> None:
    """Raise Misconfigured if the database is unmigrated or newer than this code."""
    database = Database(settings, connections=1, application_name="holdfast-check")
    try:
        rows = await database.rows(_REVISION)
        found = str(rows[0]["version_num"]) if rows else None
    except Unmigrated:
        found = None
    finally:
        await database.close()
    if found == NEWEST:
        return
    if found is None or found < NEWEST:
        raise Misconfigured(
            f"the database is at migration {found or 'none'}, this code needs {NEWEST}: "
            "run `holdfast migrate`"
        )
    raise Misconfigured(
        f"the database is at migration {found}, which this code does not know (it needs "
        f"{NEWEST}): start the newer release of Holdfast"
    )
