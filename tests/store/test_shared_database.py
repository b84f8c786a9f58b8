"""Holdfast in the database of an application that has tables and migrations of its own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from bench import Bench, bench_for
from sqlalchemy import Engine, TextClause, create_engine, text
from waiting import until

from holdfast.client import enqueue
from holdfast.errors import Misconfigured, Unavailable
from holdfast.handlers import Context
from holdfast.model.lifecycle import State
from holdfast.settings import Settings
from holdfast.store import migrate, revision
from holdfast.store.qualified import in_schema
from holdfast.store.schema import metadata
from holdfast.store.statements import statements

TABLES = {*metadata.tables, "alembic_version"}

ENV = """
from alembic import context
from sqlalchemy import MetaData, Table, Column, Integer

metadata = MetaData()
Table("tasks", metadata, Column("chore", Integer, primary_key=True))
connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
"""
FIRST = """
from alembic import op
import sqlalchemy as sa

revision, down_revision = "app1", None

def upgrade():
    op.create_table("tasks", sa.Column("chore", sa.Integer, primary_key=True))
"""


def alembic_of_the_application(directory: Path, engine: Engine) -> Config:
    """Write an Alembic environment as an application has it, and return its configuration."""
    (directory / "versions").mkdir(parents=True)
    (directory / "env.py").write_text(textwrap.dedent(ENV))
    (directory / "versions" / "app1.py").write_text(textwrap.dedent(FIRST))
    config = Config()
    config.set_main_option("script_location", str(directory))
    config.attributes["connection"] = engine.connect()
    return config


@pytest.fixture(params=["holdfast", "jobs", "select"])
async def shared(
    request: pytest.FixtureRequest, empty_database_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    """Yield a bench in a database whose search_path finds the application's tables only.

    The application has a table of each name that Holdfast uses; the one called tasks and its
    version table belong to its Alembic.
    """
    name = empty_database_url.rpartition("/")[2]
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA app")
        connection.execute(f'ALTER DATABASE "{name}" SET search_path TO app'.encode())
    settings = Settings(
        database_url=empty_database_url, redis_url=redis_url, database_schema=request.param
    )
    engine = create_engine(empty_database_url.replace("postgresql:", "postgresql+psycopg:"))
    config = alembic_of_the_application(tmp_path / "alembic", engine)
    await migrate.upgrade_in_loop(settings)
    command.upgrade(config, "head")
    await migrate.upgrade_in_loop(settings)
    command.check(config)  # Alembic's autogenerate does not see Holdfast's tables
    config.attributes["connection"].commit()
    config.attributes["connection"].close()
    with engine.begin() as connection:
        for table in sorted(TABLES - {"tasks", "alembic_version"}):
            connection.execute(text(f"CREATE TABLE {table} (chore int)"))
    engine.dispose()
    async with bench_for(settings) as bench:
        yield bench


def tables_of(bench: Bench, schema: str) -> set[str]:
    rows = bench.sql(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")
    return {row[0] for row in rows}


async def test_tasks_run_beside_an_application(shared: Bench) -> None:
    """Neither uses the other's tables, whose names are equal."""

    @shared.registry.task("order")
    async def order(ctx: Context, payload: dict[str, Any]) -> None:
        async with ctx.transaction() as tx:
            await tx.execute(text("INSERT INTO tasks (chore) VALUES (:n)"), payload)

    @shared.registry.task("fail")
    async def fail(ctx: Context, payload: dict[str, Any]) -> None:
        raise ValueError

    schema = shared.settings.database_schema
    await revision.check(shared.settings)
    url = shared.settings.database_url.replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO tasks (chore) VALUES (1)"))
        enqueued = enqueue(connection, "order", {"n": 2}, schema=schema)
    engine.dispose()
    (ordered,) = await shared.submit("order", payload={"n": 3})
    (failing,) = await shared.submit("fail", max_attempts=1)
    (waiting,) = await shared.submit("nobody")
    async with shared.worker(), shared.scheduler():
        await shared.until_state([enqueued, ordered], State.SUCCEEDED)
        await shared.until_state(failing, State.FAILED)
        assert (await shared.store.cancel([waiting], "api:test"))[0].done
        assert (await shared.store.retry([failing], "api:test"))[0].done
        await shared.until_state(failing, State.FAILED)
        await until(lambda: shared.count("holdfast_dead_letter_tasks") == 1)
    assert shared.sql("SELECT chore FROM tasks ORDER BY chore") == [(1,), (2,), (3,)]
    assert shared.sql("SELECT version_num FROM alembic_version") == [("app1",)]
    assert tables_of(shared, "app") == tables_of(shared, schema) == TABLES


async def test_role_without_the_schema_says_what_to_do(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url, database_schema="jobs")
    with pytest.raises(Misconfigured, match="run `holdfast migrate`"):
        await revision.check(settings)


async def test_schema_made_by_an_administrator_is_used(empty_database_url: str) -> None:
    """The user that migrates may create tables in it, but no schema of its own."""
    parts = urlsplit(empty_database_url)
    user = f"{parts.path.strip('/')}_user"
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret'".encode())
        connection.execute(f"CREATE SCHEMA jobs AUTHORIZATION {user}".encode())
        try:
            url = parts._replace(netloc=f"{user}:secret@{parts.hostname}:{parts.port}").geturl()
            settings = Settings(database_url=url, database_schema="jobs")
            await migrate.upgrade_in_loop(settings)
            await revision.check(settings)
            with pytest.raises(Unavailable, match="permission denied"):
                await migrate.upgrade_in_loop(Settings(database_url=url))
        finally:
            connection.execute("DROP SCHEMA jobs CASCADE")
            connection.execute(f"DROP ROLE {user}".encode())


@pytest.mark.parametrize("schema", ["", "1jobs", "Jobs", 'a"b', "a b", "a" * 64, "ä"])
def test_schema_that_is_no_plain_identifier_is_refused(schema: str) -> None:
    with pytest.raises(ValueError, match="database_schema"):
        Settings(database_schema=schema)


STATEMENTS = statements() | {
    name: value for name, value in vars(revision).items() if isinstance(value, TextClause)
}


UNQUALIFIED = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE|TABLE)\s+(?:{'|'.join(TABLES)})\b")


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_in_another_schema_names_only_that(name: str) -> None:
    moved = in_schema(STATEMENTS[name], "jobs").text
    assert "holdfast." not in moved
    assert UNQUALIFIED.findall(moved) == []
