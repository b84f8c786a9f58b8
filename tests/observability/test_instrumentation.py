"""Log lines, ids and settings of instrumentation, and that disabled telemetry costs nothing."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from bench import Bench
from opentelemetry import trace
from pydantic import ValidationError
from sqlalchemy import create_engine, text
from waiting import until

from holdfast.client import enqueue
from holdfast.handlers import Context, Retry
from holdfast.handlers.sql_spans import without_literals
from holdfast.model.lifecycle import Reason, State
from holdfast.settings import Settings
from holdfast.telemetry import traceparent
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.trace_context import attempt_span_id, new_root

Payload = dict[str, Any]
FIELDS = ("level", "from", "to", "reason", "epoch", "attempt")
SECRET = "s3cr3t-payl0ad"


def lines(bench: Bench, task_id: UUID) -> list[tuple[Any, ...]]:
    """Return the logged transitions of a task as level, from, to, reason, epoch, attempt."""
    logged = map(json.loads, bench.log.getvalue().splitlines())
    entries = [line for line in logged if line.get("task_id") == str(task_id) and "reason" in line]
    return [tuple(line[field] for field in FIELDS) for line in entries]


async def test_retried_task_logs_one_line_per_transition(bench: Bench) -> None:
    @bench.registry.task("shaky")
    async def shaky(ctx: Context, payload: Payload) -> Payload:
        if ctx.attempt == 1:
            raise Retry(after=0, reason=SECRET)
        return payload

    create = traceparent.write(new_root(0.0))
    (task_id,) = await bench.submit("shaky", traceparent=create, payload={"key": SECRET})
    async with bench.scheduler(log_level="DEBUG"), bench.worker(log_level="DEBUG"):
        await bench.until_state(task_id, State.SUCCEEDED)
    assert lines(bench, task_id) == [
        ("debug", "SCHEDULED", "QUEUED", "dispatched", 0, 0),
        ("debug", "QUEUED", "RUNNING", "claimed", 1, 1),
        ("info", "RUNNING", "SCHEDULED", "failed", 1, 1),
        ("debug", "SCHEDULED", "QUEUED", "dispatched", 2, 1),
        ("debug", "QUEUED", "RUNNING", "claimed", 3, 2),
        ("debug", "RUNNING", "SUCCEEDED", "succeeded", 3, 2),
    ]
    assert f'"trace_id": "{create.split("-")[1]}"' in bench.log.getvalue()
    assert SECRET not in bench.log.getvalue()


async def test_lost_attempt_is_logged_by_the_scheduler(bench: Bench) -> None:
    worker = await bench.registered()
    (grant,) = await bench.claimed("a", worker=worker)
    bench.sql("UPDATE workers SET dead_at = clock_timestamp(), dead_reason = 'test'")
    async with bench.scheduler():
        await until(lambda: len(lines(bench, grant.task_id)) > 0)
    logged_lines = lines(bench, grant.task_id)
    assert logged_lines[0] == ("warning", "RUNNING", "SCHEDULED", "lost", 1, 1)


async def test_fields_of_ordinary_transitions_are_not_built_without_debug(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @bench.registry.task("echo")
    async def echo(ctx: Context, payload: Payload) -> Payload:
        return payload

    def words(*_: Any) -> dict[str, object]:
        raise AssertionError("fields built for a line that is not logged")

    monkeypatch.setattr("holdfast.instrumentation.attributes.transition_fields", words)
    ids = await bench.submit("echo", "echo", "echo")
    async with bench.scheduler(), bench.worker():
        await bench.until_state(ids, State.SUCCEEDED)
    assert EventName.ATTEMPT_CRASHED not in bench.logged()
    assert bench.count("holdfast_loop_turns_total", loop="dispatch", result="failed") == 0
    succeeded = {"queue": "default", "name": "echo", "outcome": str(Reason.SUCCEEDED)}
    assert bench.count("holdfast_attempts_finished_total", **succeeded) == 3


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (" 00-4BF9-x ", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        (
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ],
)
def test_traceparent_is_canonicalised_or_rejected(given: str, stored: str | None) -> None:
    context = traceparent.parse(given)
    assert (traceparent.write(context) if context else None) == stored


def test_sampling_is_read_from_the_flags() -> None:
    context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
    assert [traceparent.is_sampled(context + flags) for flags in ("00", "01", "02", "03")] == [
        *(False, True, False, True)
    ]
    assert not traceparent.is_sampled(None)
    assert not traceparent.is_sampled("")


def test_ratio_samples_by_trace_id_like_opentelemetry() -> None:
    contexts = [new_root(0.25) for _ in range(4000)]
    sampled = [context for context in contexts if context.trace_flags.sampled]
    assert 800 < len(sampled) < 1200
    assert all(context.trace_id % (1 << 56) < (1 << 54) for context in sampled)
    assert len({context.trace_id for context in contexts}) == 4000


def test_attempt_span_id_is_derived_from_task_and_epoch() -> None:
    task_id = UUID("01970000-0000-7000-8000-000000000001")
    assert attempt_span_id(task_id, 1) == 0x957621E6A85987F0
    ids = {attempt_span_id(task_id, epoch) for epoch in range(1, 2001, 2)}
    assert len(ids) == 1000
    assert all(0 < span_id < 1 << 64 for span_id in ids)


def test_task_enqueued_within_a_span_continues_its_trace(settings: Settings) -> None:
    engine = create_engine(settings.database_url.replace("postgresql:", "postgresql+psycopg:"))
    current = new_root(1.0)
    with engine.begin() as connection:
        with trace.use_span(trace.NonRecordingSpan(current)):
            within = enqueue(connection, "a")
        standalone = enqueue(connection, "a", trace_ratio=1.0)
        never = enqueue(connection, "a", trace_ratio=0.0)
        rows = connection.execute(text("SELECT id, traceparent FROM requests")).all()
    engine.dispose()
    stored = {row[0]: row[1] for row in rows}
    assert stored[within] == traceparent.write(current)
    assert stored[standalone].endswith("-01")
    assert stored[never].endswith("-00")


@pytest.mark.parametrize(
    "wrong",
    [
        {"otlp_endpoint": "collector:4318"},
        {"otlp_endpoint": "http://"},
        {"trace_ratio": 1.5},
        {"trace_export_seconds": 0},
    ],
)
def test_invalid_settings_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_empty_endpoint_is_none() -> None:
    assert Settings(otlp_endpoint="").otlp_endpoint is None


@pytest.mark.parametrize(
    ("statement", "recorded"),
    [
        ("SELECT $1::INTEGER + a1", "SELECT $1::INTEGER + a1"),
        ("SELECT 'it''s', 42, 4.5, t2.c3", "SELECT ?, ?, ?, t2.c3"),
        ("SELECT $tag$ a 'secret' $tag$", "SELECT ?"),
        ("SELECT " + "x" * 5000, "SELECT " + "x" * 1993),
    ],
)
def test_literals_are_removed_from_sql(statement: str, recorded: str) -> None:
    assert without_literals(statement) == recorded
