"""The `holdfast` command as processes: output, exit codes, health ports."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Any

import httpx
import psycopg
import pytest
from bench import bench_for
from command import Command
from otlp_receiver import receiving
from starlette.applications import Starlette
from waiting import wait_until

from holdfast.model.lifecycle import State
from holdfast.runtime.health import create_health, start_server, stop_server
from holdfast.settings import Settings
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.trace_context import new_root
from holdfast.telemetry.traceparent import write

HANDLERS = """
import asyncio, threading, time
from holdfast.handlers import task

@task("deaf_thread")
def deaf_thread(ctx, payload):
    while True:
        time.sleep(1)

@task("deaf_coroutine")
async def deaf_coroutine(ctx, payload):
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass
"""


def sql(settings: Settings, statement: str) -> list[Any]:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("role", ["api", "scheduler", "worker"])
def test_role_exits_on_an_unmigrated_database(
    command: Command, empty_database_url: str, role: str
) -> None:
    code, _, error = command.run(role, HOLDFAST_DATABASE_URL=empty_database_url)
    assert code == 2
    assert error.startswith("holdfast: the database is at migration none")
    assert "run `holdfast migrate`" in error
    assert len(error.splitlines()) == 1


def test_process_exits_with_the_code_of_its_command(
    command: Command, empty_database_url: str
) -> None:
    with command.running("worker", HOLDFAST_DATABASE_URL=empty_database_url) as running:
        assert running.process.wait(30) == 2
    assert running.log.read_text().startswith("holdfast: the database is at migration none")


def test_migrate_upgrades_a_database(command: Command, empty_database_url: str) -> None:
    here = {"HOLDFAST_DATABASE_URL": empty_database_url}
    for _ in range(2):
        code, output, error = command.run("migrate", **here)
        assert (code, error) == (0, "")
        assert output.startswith("the database is at migration 0")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("UPDATE holdfast.alembic_version SET version_num = '9999'")
    code, _, error = command.run("scheduler", **here)
    assert (code, "start the newer release" in error) == (2, True)


@pytest.mark.parametrize(
    ("name", "value", "complaint", "code"),
    [
        ("HOLDFAST_LEASE_SECONDS", "-1", "HOLDFAST_LEASE_SECONDS: Input should be greater", 2),
        ("HOLDFAST_LEASE_SECONDS", "4", "HOLDFAST_HEARTBEAT_SECONDS=3.0 must be at most", 2),
        ("HOLDFAST_WORKER_CONCURRENCY", "many", "HOLDFAST_WORKER_CONCURRENCY: Input should", 2),
        ("HOLDFAST_QUEUES", "mail,images", "HOLDFAST_QUEUES: must be a JSON list", 2),
        ("HOLDFAST_REDIS_URL", "localhost:6379", "HOLDFAST_REDIS_URL is not a valid", 2),
        (
            "HOLDFAST_DATABASE_URL",
            "mysql://a/b",
            "HOLDFAST_DATABASE_URL: must look like",
            2,
        ),
        (
            "HOLDFAST_DATABASE_URL",
            "postgresql://x@127.0.0.1:0/x",
            "HOLDFAST_DATABASE_URL: the port of the host '127.0.0.1' must be",
            2,
        ),
        (
            "HOLDFAST_DATABASE_URL",
            "postgresql://x@127.0.0.1:1/x?sslmode=sometimes",
            "HOLDFAST_DATABASE_URL: `sslmode` parameter must be one of",
            2,
        ),
        (
            "HOLDFAST_DATABASE_URL",
            "postgresql://x@127.0.0.1/x?channel_binding=require",
            "HOLDFAST_DATABASE_URL: channel_binding=require is not supported",
            2,
        ),
    ],
)
def test_invalid_setting_is_named_in_one_line(
    command: Command, name: str, value: str, complaint: str, code: int
) -> None:
    found, output, error = command.run("worker", **{name: value})
    assert (found, output) == (code, "")
    assert error.startswith("holdfast: ")
    assert complaint in error
    assert len(error.splitlines()) == 1, error


def test_missing_module_is_named(command: Command) -> None:
    code, _, error = command.run("worker", "--app", "no.such.module")
    assert code == 2
    assert error.startswith("holdfast: no module 'no'")


def test_settings_lists_every_variable(command: Command) -> None:
    code, output, _ = command.run("settings")
    assert code == 0
    for name, info in Settings.model_fields.items():
        assert re.search(rf"^HOLDFAST_{name.upper()}=", output, re.MULTILINE), name
        assert info.description
        assert info.description in output
    assert 'HOLDFAST_QUEUES=["default"]' in output


def test_doctor_grades_its_checks(
    command: Command, empty_database_url: str, settings: Settings
) -> None:
    name = settings.database_url.rpartition("/")[2]
    sql(settings, f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = 0")
    code, output, _ = command.run("doctor")
    grades = {line[8:].partition(":")[0]: line[:8].strip() for line in output.splitlines()}
    assert code == 0 or "bad" in grades.values()
    assert grades["migrations"] == grades["Postgres"] == grades["clock"] == "ok"
    assert grades["idle_in_transaction_session_timeout"] == "warning"
    assert set(grades) >= {"fsync", "synchronous_commit", "maxmemory-policy"}
    sql(settings, f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '60s'")
    sql(settings, f"ALTER DATABASE {name} SET synchronous_commit = off")
    code, output, _ = command.run("doctor")
    assert code == 1
    assert re.search(r"^bad +synchronous_commit: off: a crash loses tasks", output, re.MULTILINE)
    assert re.search(r"^ok +idle_in_transaction_session_timeout: 1min", output, re.MULTILINE)
    code, output, _ = command.run("doctor", HOLDFAST_DATABASE_URL=empty_database_url)
    assert code == 1
    assert re.search(r"^bad +migrations: .*run `holdfast migrate`", output, re.MULTILINE)
    nowhere = {"HOLDFAST_REDIS_URL": "redis://127.0.0.1:1/0"}
    code, output, _ = command.run("doctor", **nowhere)
    assert code == 1
    assert re.search(r"^bad +Redis: ", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("role", "end"),
    [("scheduler", signal.SIGTERM), ("worker", signal.SIGTERM), ("api", signal.SIGINT)],
)
def test_role_serves_health_and_stops_on_a_signal(
    command: Command, role: str, end: signal.Signals
) -> None:
    with command.running(role) as running:
        url = running.until_ready()
        assert httpx.get(f"{url}/healthz").status_code == 200
        metrics = httpx.get(f"{url}/metrics")
        assert metrics.status_code == 200
        assert re.search(
            rf'^holdfast_build_info\{{.*role="{role}".*\}} 1\.0$', metrics.text, re.MULTILINE
        )
        port = url.rpartition(":")[2]
        taken = {"HOLDFAST_API_PORT": port, "HOLDFAST_HEALTH_PORT": port}
        code, _, error = command.run(role, **taken)
        assert code == 1
        assert f"holdfast: cannot listen on 127.0.0.1:{port}: is the port in use?" in error
        assert running.terminate(end) == 0
        assert running.events()[-1] == f"{role}_stopped"


def test_role_without_progress_is_alive_but_not_ready(command: Command, settings: Settings) -> None:
    quick = {"HOLDFAST_STATEMENT_TIMEOUT_SECONDS": "0.5", "HOLDFAST_POLL_SECONDS": "0.05"}
    with command.running("scheduler", **quick) as running:
        url = running.until_ready()
        sql(settings, "ALTER TABLE tasks RENAME TO elsewhere")
        wait_until(lambda: "dispatch" in httpx.get(f"{url}/readyz").json().get("stalled", ()))
        answer = httpx.get(f"{url}/readyz")
        assert answer.status_code == 503
        assert "run `holdfast migrate`" in answer.json()["stalled"]["dispatch"]
        assert httpx.get(f"{url}/healthz").status_code == 200
        sql(settings, "ALTER TABLE elsewhere RENAME TO tasks")
        running.until_ready()


async def test_worker_stops_although_its_handlers_never_end(
    command: Command, settings: Settings
) -> None:
    (command.directory / "deaf_handlers.py").write_text(HANDLERS)
    quick = {
        "HOLDFAST_SHUTDOWN_GRACE_SECONDS": "0.2",
        "HOLDFAST_STATEMENT_TIMEOUT_SECONDS": "1",
    }
    async with bench_for(settings) as bench:
        in_thread, in_loop = await bench.offer("deaf_thread", "deaf_coroutine")
        with command.running("worker", "--app", "deaf_handlers", **quick) as worker:
            await bench.until_state([in_thread, in_loop], State.RUNNING, seconds=30)
            assert worker.terminate() == 0
            assert worker.events()[-1] == EventName.WORKER_STOPPED
        assert await bench.state(in_thread) is State.SCHEDULED
        (taken,) = await bench.store.reclaim(10, "scheduler:test")
        assert taken.task_id == in_loop, "only a scheduler could end it"


def test_worker_marked_dead_exits_with_code_3(command: Command, settings: Settings) -> None:
    with command.running("worker", HOLDFAST_HEARTBEAT_SECONDS="0.1") as running:
        running.until_ready()
        sql(settings, "UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test'")
        assert running.process.wait(20) == 3


async def test_idle_connection_is_kept_longer_than_by_clients() -> None:
    """Found by a soak: httpx, too, closes idle connections after 5 s, and a request was lost."""
    server, task = await start_server(create_health(dict, Metrics("test")), "127.0.0.1", 0)
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    assert (await reader.readuntil(b"alive")).startswith(b"HTTP/1.1 200")
    await reader.read(100)  # the rest of the response
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(100), 5.5)
    writer.write(request)
    assert (await reader.readuntil(b"alive")).startswith(b"HTTP/1.1 200")
    writer.close()
    await stop_server(server, task)


async def test_readiness_reflects_stalled_loops() -> None:
    stalled: dict[str, str] = {"dispatch": "not started"}
    health: Starlette = create_health(lambda: stalled, Metrics("test"))
    server, task = await start_server(health, "127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["stalled"]) == (503, stalled)
        stalled.clear()
        assert (await client.get("/readyz")).json() == {"status": "ready"}
    await stop_server(server, task)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_stopped_worker_exports_its_last_spans_and_a_killed_one_does_not(
    command: Command, settings: Settings, end: signal.Signals
) -> None:
    async with receiving() as collector, bench_for(settings) as bench:
        traced = {
            "HOLDFAST_OTLP_ENDPOINT": collector.url,
            "HOLDFAST_TRACE_EXPORT_SECONDS": "3600",
            "HOLDFAST_LABEL": "worker-7",
        }
        with command.running("worker", **traced) as worker:
            await asyncio.to_thread(worker.until_ready)
            (task_id,) = await bench.offer("echo", traceparent=write(new_root(1.0)))
            await bench.until_state(task_id, State.SUCCEEDED, seconds=30)
            await asyncio.to_thread(worker.terminate, end)
        spans = collector.named("process default", task_id)
    assert [span.instance for span in spans] == ["worker-7"] * (end is signal.SIGTERM)
