"""Check that the database has the schema that this code needs.

Reads Alembic's row without importing Alembic, which would add 0.3 s to the start of every role.
"""

from __future__ import annotations

from sqlalchemy import text

from holdfast.errors import Misconfigured
from holdfast.settings import Settings
from holdfast.store.database import Database, Unmigrated

# The newest revision in migrations/versions (a test compares them). Revisions are four-digit
# numbers, so they compare as text.
NEWEST = "0001"

_REVISION = text("SELECT version_num FROM holdfast.alembic_version")


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
        f"the database is at migration {found}, newer than this code ({NEWEST}): "
        "start the newer release of Holdfast"
    )
