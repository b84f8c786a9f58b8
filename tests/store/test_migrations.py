"""Migrations create the schema of schema.py; roles check the revision they find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text

from holdfast.errors import Misconfigured, Unavailable
from holdfast.settings import Settings
from holdfast.store import migrate, revision
from holdfast.store.schema import metadata

IN_SCHEMA = "?options=-csearch_path%3Dholdfast"


def engine_of(url: str) -> Engine:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


@pytest.fixture
def migrated(database_url: str) -> Iterator[Engine]:
    engine = engine_of(f"{database_url}{IN_SCHEMA}")
    yield engine
    engine.dispose()


@pytest.fixture
def declared(empty_database_url: str) -> Iterator[Engine]:
    """Create a database with the tables of schema.py, without migrations."""
    engine = engine_of(f"{empty_database_url}{IN_SCHEMA}")
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA holdfast"))
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def described(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Return every column, constraint, index and storage option from the catalogue."""
    with engine.connect() as connection:
        columns = connection.execute(
            text("""SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
              attnotnull, attidentity::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
              WHERE attnum > 0 AND relkind = 'r' AND relnamespace = current_schema()::regnamespace
                AND relname <> 'alembic_version' ORDER BY 1, 2""")
        )
        constraints = connection.execute(
            text("""SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
              FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
                AND conrelid::regclass::text <> 'alembic_version' ORDER BY 1, 2""")
        )
        indexes = connection.execute(
            text("""SELECT tablename, indexname, indexdef FROM pg_indexes
              WHERE schemaname = current_schema() AND tablename <> 'alembic_version'
                ORDER BY 1, 2""")
        )
        storage = connection.execute(
            text("""SELECT relname, reloptions::text FROM pg_class
              WHERE relnamespace = current_schema()::regnamespace AND reloptions IS NOT NULL
                ORDER BY 1""")
        )
        return {
            "storage": [tuple(row) for row in storage],
            "columns": [tuple(row) for row in columns],
            "constraints": [tuple(row) for row in constraints],
            "indexes": [tuple(row) for row in indexes],
        }


def test_alembic_sees_no_difference(migrated: Engine) -> None:
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_postgres_catalogue_sees_no_difference(migrated: Engine, declared: Engine) -> None:
    by_migration, by_schema = described(migrated), described(declared)
    assert by_migration == by_schema
    checks = [row for row in by_schema["constraints"] if str(row[2]).startswith("CHECK")]
    partial = [row for row in by_schema["indexes"] if " WHERE " in str(row[2])]
    assert len(checks) == 6
    assert len(partial) == 8
    assert [row[0] for row in by_schema["storage"]] == ["effects", "task_events", "tasks"]


def test_newest_revision_is_the_newest_migration() -> None:
    scripts = ScriptDirectory(Path(migrate.__file__).with_name("migrations"))
    in_order = [script.revision for script in scripts.walk_revisions("base", "heads")]
    assert in_order[0] == revision.NEWEST
    assert in_order == sorted(in_order, reverse=True)


def test_upgrading_twice_changes_nothing(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    engine = engine_of(f"{empty_database_url}{IN_SCHEMA}")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO task_names VALUES ('kept', 1, 1, now())"))
    migrate.upgrade(empty_database_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT name FROM task_names")) == "kept"
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == (
            revision.NEWEST
        )
    engine.dispose()


async def test_migrated_database_passes_check(settings: Settings) -> None:
    await revision.check(settings)


async def test_unmigrated_database_error_names_the_command(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    with pytest.raises(Misconfigured, match=r"at migration none.*run `holdfast migrate`"):
        await revision.check(settings)
    await migrate.upgrade_in_loop(settings)
    await revision.check(settings)


async def test_newer_database_error_names_the_remedy(settings: Settings, migrated: Engine) -> None:
    with migrated.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Misconfigured, match=r"9999.*start the newer release"):
        await revision.check(settings)


async def test_empty_version_table_counts_as_unmigrated(
    settings: Settings, migrated: Engine
) -> None:
    with migrated.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(Misconfigured, match="run `holdfast migrate`"):
        await revision.check(settings)


def test_failing_migration_leaves_nothing_behind(empty_database_url: str) -> None:
    engine = engine_of(f"{empty_database_url}{IN_SCHEMA}")
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA holdfast"))
        connection.execute(text("CREATE TABLE workers (in_the_way int)"))
    with pytest.raises(Unavailable, match=r'cannot migrate.*"workers" already exists'):
        migrate.upgrade(empty_database_url)
    assert inspect(engine).get_table_names() == ["workers"]
    engine.dispose()


def test_unreachable_postgres_error_is_one_line(database_url: str) -> None:
    with pytest.raises(Unavailable, match=r"cannot migrate the database: .*Connect call failed"):
        migrate.upgrade("postgresql://x@127.0.0.1:1/x")
    missing = database_url.rpartition("/")[0] + "/missing"
    with pytest.raises(Unavailable, match=r'cannot migrate.*"missing" does not exist'):
        migrate.upgrade(missing)
