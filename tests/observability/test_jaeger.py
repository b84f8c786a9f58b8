"""A real Jaeger; `make trace` and `holdfast trace` as users run them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4

import httpx
import psutil
import pytest
from bench import Bench
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from waiting import wait_until

from holdfast.devstack.host import free_port, temporary_directory
from holdfast.devstack.jaeger import EmbeddedJaeger
from holdfast.devstack.reaper import Reaper, process_tree, still_running
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import span_destination
from holdfast.telemetry.spans import Link, Span
from holdfast.telemetry.trace_context import Attributes, FinishedSpan, TimedEvent, attempt_span_id
from holdfast.telemetry.tracing import create_tracing
from holdfast.tools.jaeger_query import JaegerError, JaegerQuery

# Building Jaeger takes two minutes, once.
pytestmark = [pytest.mark.observability, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent
TRACE, BATCH = 0x0BF92F3577B34DA6A3CE929D0E0E4736, 0x77
BEGAN = time.time_ns() // 1000 * 1000
TASK = uuid4()


@pytest.fixture(scope="module")
def jaeger(reaper: Reaper) -> Iterator[EmbeddedJaeger]:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    with EmbeddedJaeger(directory / "jaeger", reaper=reaper) as jaeger:
        yield jaeger


def _context(span_id: int, trace_id: int = TRACE) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(1))


async def _export(jaeger: EmbeddedJaeger, role: str, *spans: FinishedSpan) -> None:
    tracing = create_tracing(
        span_destination(jaeger.otlp_url, {}),
        1.0,
        Metrics(role),
        create_logger(),
        role=role,
        label=f"{role}-1",
        version="1",
    )
    tracing.start()
    for span in spans:
        tracing.record(span)
    await tracing.aclose()


async def test_spans_round_trip(jaeger: EmbeddedJaeger) -> None:
    create = FinishedSpan(
        "create default", _context(0xC), None, BEGAN, BEGAN + 2_000_000, SpanKind.PRODUCER
    )
    attempt = FinishedSpan(
        "process default",
        _context(0xA),
        _context(0xC),
        BEGAN + 3_000_000,
        BEGAN + 9_000_000,
        SpanKind.CONSUMER,
        {"holdfast.task.id": str(TASK), "holdfast.attempt": 2},
        links=[_context(0xB), _context(0xD, BATCH)],
        events=[TimedEvent("taken back", BEGAN + 9_000_000, {"holdfast.reason": "lease_lost"})],
        error="lease_lost",
    )
    await _export(jaeger, "worker", create, attempt)
    trace_id = f"{TRACE:032x}"
    async with JaegerQuery(jaeger.url) as query:
        first, second = sorted(await query.trace(trace_id), key=lambda span: span.start)
        by_tag = await query.of_task("holdfast-worker", str(TASK))
        since = BEGAN // 1000
        meanwhile = await query.between("holdfast-worker", since, since + 9_000)
        before = await query.between("holdfast-worker", since - 9_000, since - 1)
        nothing = await query.trace("1" * 32)
        unknown_trace = await query.of_task("holdfast-worker", str(uuid4()))
    assert (first.span_id, first.parent_id, first.error) == (f"{0xC:016x}", None, False)
    assert (first.start, first.duration) == (BEGAN // 1000, 2_000)
    assert isinstance(second, Span)
    assert (second.trace_id, second.parent_id) == (trace_id, f"{0xC:016x}")
    assert (second.service, second.instance) == ("holdfast-worker", "worker-1")
    assert second.error
    assert second.attributes["holdfast.attempt"] == 2
    assert second.attributes["error.type"] == "lease_lost"
    links = [Link(trace_id, f"{0xB:016x}"), Link(f"{BATCH:032x}", f"{0xD:016x}")]
    assert list(second.links) == links
    (event,) = second.events
    assert (event.name, event.at) == ("taken back", BEGAN // 1000 + 9_000)
    assert event.attributes == {"holdfast.reason": "lease_lost"}
    assert {span.span_id for span in by_tag} == {first.span_id, second.span_id}
    assert {span.span_id for span in meanwhile} == {first.span_id, second.span_id}
    assert before == nothing == unknown_trace == []


async def test_unreachable_jaeger_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with JaegerQuery(url) as query:
        with pytest.raises(JaegerError, match=f"no answer from Jaeger at {url}"):
            await query.trace("1" * 32)


async def test_server_that_is_not_jaeger_is_reported(jaeger: EmbeddedJaeger) -> None:
    async with JaegerQuery(f"{jaeger.url}/search") as query:  # the server answers every path
        with pytest.raises(JaegerError, match="is not Jaeger"):
            await query.trace("1" * 32)


def _ours(command: str) -> set[int]:
    """Return the processes with ``text`` in their command line."""
    found = set()
    for process in psutil.process_iter():
        try:
            if any(command in part for part in process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def test_jaeger_exits_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path;"
        "from holdfast.devstack.jaeger import EmbeddedJaeger;"
        "jaeger = EmbeddedJaeger(Path(sys.argv[1])); jaeger.start();"
        "print(jaeger.pid, flush=True); time.sleep(600)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "jaeger")]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert still_running({pid})
        parent.kill()
    wait_until(lambda: not still_running({pid}))


def _trace_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holdfast", "trace", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_trace_of_a_task(jaeger: EmbeddedJaeger, bench: Bench) -> None:
    """From the database, then from Jaeger only once the task is pruned."""
    parent = f"00-{0xACE:032x}-{0xC:016x}-01"
    (task,) = await bench.submit("echo", traceparent=parent)
    environment = {
        "HOLDFAST_DATABASE_URL": bench.settings.database_url,
        "HOLDFAST_JAEGER_URL": jaeger.url,
    }
    done = _trace_command(str(task), **environment)
    assert done.returncode == 1
    assert f"does not have trace {0xACE:032x}" in done.stderr
    create = _context(0xC, 0xACE)
    send = FinishedSpan(
        "send default",
        _context(0xD, 0xACE),
        create,
        BEGAN,
        BEGAN + 5_000_000,
        attributes={"holdfast.task.id": str(task)},
    )
    neighbour = FinishedSpan("create default", _context(0xE, 0xACE), None, BEGAN, BEGAN + 1_000_000)
    fault = FinishedSpan(
        "kill worker-1", _context(0xF, 0xFA), _context(0x1, 0xFA), BEGAN, BEGAN + 1
    )
    await _export(jaeger, "scheduler", send, neighbour)
    await _export(jaeger, "chaos", fault)
    for _ in ("stored", "pruned"):
        done = _trace_command(str(task), **environment)
        assert done.returncode == 0, done.stderr
        assert f"{jaeger.url}/trace/{0xACE:032x}" in done.stdout
        assert "send default" in done.stdout
        assert "kill worker-1" in done.stdout
        assert "create default" not in done.stdout  # another task of the same trace
        assert "\x1b" not in done.stdout
        bench.sql("DELETE FROM task_events; DELETE FROM requests; DELETE FROM tasks")


async def test_running_attempt_is_shown_with_its_steps(
    jaeger: EmbeddedJaeger, bench: Bench
) -> None:
    parent = f"00-{0xABC:032x}-{0xC:016x}-01"
    (task,) = await bench.submit("echo", traceparent=parent)
    of_task: Attributes = {
        "holdfast.task.id": str(task),
        "holdfast.epoch": 1,
        "holdfast.attempt": 1,
    }
    create, attempt = _context(0xC, 0xABC), _context(attempt_span_id(task, 1), 0xABC)
    await _export(
        jaeger,
        "worker",
        FinishedSpan(
            "queued", _context(0xD, 0xABC), create, BEGAN, BEGAN + 1000, attributes=of_task
        ),
        FinishedSpan("first step", _context(0xE, 0xABC), attempt, BEGAN + 2000, BEGAN + 3_000_000),
    )
    environment = {
        "HOLDFAST_DATABASE_URL": bench.settings.database_url,
        "HOLDFAST_JAEGER_URL": jaeger.url,
    }
    drawn = _trace_command(str(task), **environment).stdout
    assert re.search(r"process #1 .*\n.*its end is not recorded yet\n.*└ first step", drawn), drawn


async def test_missing_trace_is_explained(jaeger: EmbeddedJaeger, bench: Bench) -> None:
    (unsampled,) = await bench.submit("echo", traceparent=f"00-{0xBAD:032x}-{0xC:016x}-00")
    (sampled,) = await bench.submit("echo", traceparent=f"00-{0xBAD:032x}-{0xC:016x}-01")
    database = {"HOLDFAST_DATABASE_URL": bench.settings.database_url}
    here = database | {"HOLDFAST_JAEGER_URL": jaeger.url}
    away = f"http://127.0.0.1:{free_port()}"
    for message, arguments, environment in [
        ("does not exist", [str(uuid4())], here),
        ("is not sampled", [str(unsampled)], here),
        (
            f"no answer from Jaeger at {away}",
            [str(sampled)],
            database | {"HOLDFAST_JAEGER_URL": away},
        ),
        (f"cannot read the task at {away}", [str(sampled), "--api", away], here),
        ("cannot read the task at", [str(sampled), "--api", jaeger.url], here),
    ]:
        done = _trace_command(*arguments, **environment)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_up_traces_every_task(reaper: Reaper) -> None:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    ports = {"HOLDFAST_API_PORT": str(free_port()), "HOLDFAST_SMTP_PORT": str(free_port())}
    argv = [sys.executable, "-m", "holdfast", "up", "--trace", "--workers=1", "--schedulers=1"]
    with subprocess.Popen(
        argv, cwd=directory, env=os.environ | ports, stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        try:
            said = _read_until(up.stdout, "starts over")
            page = re.findall(r"  Jaeger +(http://\S+)", said)[0]
            api = f"http://127.0.0.1:{ports['HOLDFAST_API_PORT']}"
            answer = httpx.post(f"{api}/tasks/", json={"name": "echo"}, trust_env=False)
            arguments = (answer.json()["id"], "--api", api)
            give_up = time.monotonic() + 60
            while "succeeded" not in _trace_command(*arguments, HOLDFAST_JAEGER_URL=page).stdout:
                assert time.monotonic() < give_up
        finally:
            tree = process_tree([up.pid])
            up.send_signal(signal.SIGINT)
            up.communicate()
    assert up.returncode == 0
    assert not still_running(tree)


def _read_until(stream: IO[str], words: str) -> str:
    said = ""
    for line in stream:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def test_make_trace_shows_two_attempts_and_the_kill_between_them(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "trace"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    drawn = done.stdout.splitlines()
    assert max(map(len, drawn[2:])) <= 100
    rows = [line for line in drawn if re.match(r"(api|scheduler|worker|chaos) ", line)]

    def row(pattern: str) -> int:
        (number,) = [n for n, line in enumerate(rows) if re.search(pattern, line)]
        return number

    first, kill, second = row("process default #1"), row(r"kill worker-\d"), row("default #2")
    assert first < kill < second
    assert rows[first].startswith(
        "scheduler"
    )  # a dead worker exports nothing: the scheduler emitted it
    assert "taken back" in done.stdout
    assert "↩ after process default #1" in done.stdout
    assert "effect committed" in done.stdout
    assert sum("read the order" in line for line in rows) == 2  # of the killed attempt as well
    assert not list(tmp_path.iterdir())
    assert not _ours(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_make_trace_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-m", "chaos", "trace"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "submitted task" not in process.stderr.readline():
            assert process.poll() is None
        tree = process_tree([process.pid])
        assert len(tree) > 5
        process.send_signal(number)
        process.wait(60)
    wait_until(lambda: not still_running(tree) and not list(tmp_path.iterdir()))
