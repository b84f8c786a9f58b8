"""``holdfast trace``: find the trace of one task in Jaeger.

The task's traceparent is read from the API, or from the database if one is configured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import httpx
from sqlalchemy import text

from holdfast.errors import HoldfastError
from holdfast.settings import Settings
from holdfast.store.database import Database
from holdfast.telemetry import traceparent
from holdfast.telemetry.spans import Span, family
from holdfast.telemetry.trace_context import attempt_span_id
from holdfast.tools.jaeger_query import JaegerError, JaegerQuery
from holdfast.tools.trace_drawing import FAULTS

OPEN = "its end is not recorded yet"  # outcome of an attempt whose span is not exported yet

_API_SECONDS = 10.0
_FAULT_MAX = 600_000_000  # microseconds
_TRACEPARENT = text("SELECT traceparent FROM holdfast.requests WHERE id = :id")


class NoTrace(HoldfastError):
    """There is no trace to show; the message gives the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class TaskTrace:
    """``spans`` of one task, with the faults injected meanwhile; ``page`` is its URL in Jaeger."""

    page: str
    spans: list[Span]


async def trace_of(task_id: UUID, settings: Settings, api: str | None = None) -> TaskTrace:
    """Return the trace of a task; ``api`` is the URL of the API to read the task from.

    Raises:
        NoTrace: the task does not exist or is not sampled, or Jaeger is down or lacks the trace.
        HoldfastError: the API or the database did not answer.
    """
    if api is None and "database_url" not in settings.model_fields_set:
        api = f"http://{settings.api_host}:{settings.api_port}"
    found = await (_by_api(task_id, settings, api) if api else _by_database(task_id, settings))
    async with JaegerQuery(settings.jaeger_url) as jaeger:
        try:
            if found is None:
                return await _pruned(task_id, jaeger)
            return await _recorded(task_id, found, jaeger)
        except JaegerError as error:
            raise NoTrace(f"{error}; HOLDFAST_JAEGER_URL sets its address") from error


async def _recorded(task_id: UUID, found: str, jaeger: JaegerQuery) -> TaskTrace:
    context = traceparent.parse(found)
    if context is None or not context.trace_flags.sampled:
        raise NoTrace(
            f"task {task_id} is not sampled, as was decided when it was submitted "
            "(HOLDFAST_TRACE_RATIO, or the caller's traceparent)"
        )
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    spans = await jaeger.trace(trace_id)
    spans = family([*spans, *_open_attempts(spans, task_id)], span_id)
    if not spans:
        raise NoTrace(
            f"Jaeger at {jaeger.url} does not have trace {trace_id} of task {task_id}: it arrives "
            "within seconds if HOLDFAST_OTLP_ENDPOINT of every role points there; an old trace may "
            "have been evicted"
        )
    return await _with_faults(trace_id, spans, jaeger)


async def _pruned(task_id: UUID, jaeger: JaegerQuery) -> TaskTrace:
    """Find the trace of a task that the database no longer has; Jaeger may keep it longer."""
    found = await jaeger.of_task("holdfast-scheduler", str(task_id))
    sent = next((span for span in found if span.name.startswith("send ") and span.parent_id), None)
    if sent is None or sent.parent_id is None:
        raise NoTrace(
            f"task {task_id} does not exist: it was never stored, or its retention has ended "
            f"(and Jaeger at {jaeger.url} has no trace of it)"
        )
    trace = [span for span in found if span.trace_id == sent.trace_id]
    return await _with_faults(sent.trace_id, family(trace, sent.parent_id), jaeger)


def _open_attempts(spans: Sequence[Span], task_id: UUID) -> Iterator[Span]:
    """Yield a span for each claimed attempt without one, as the parent of what ran in it."""
    recorded = {span.span_id for span in spans}
    for claim in spans:
        mine = claim.attributes.get("holdfast.task.id") == str(task_id)
        if not mine or claim.name != "queued":
            continue
        span_id = f"{attempt_span_id(task_id, int(claim.attributes['holdfast.epoch'])):016x}"
        if span_id not in recorded:
            seen = max((span.end for span in spans if span.parent_id == span_id), default=claim.end)
            yield replace(
                claim,
                span_id=span_id,
                name="process",
                start=claim.end,
                duration=max(0, seen - claim.end),
                attributes={**claim.attributes, "holdfast.outcome": OPEN},
            )


async def _with_faults(trace_id: str, spans: list[Span], jaeger: JaegerQuery) -> TaskTrace:
    """Add the faults of a chaos run, which are in another trace, cut to the task's time."""
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    faults = [
        replace(fault, parent_id=None, start=max(first, fault.start))
        for fault in await jaeger.between(FAULTS, first - _FAULT_MAX, last)
        if fault.trace_id != trace_id and fault.parent_id
        if fault.start <= last and fault.end >= first
    ]
    clipped = [replace(each, duration=min(last - each.start, each.duration)) for each in faults]
    return TaskTrace(jaeger.page(trace_id), spans + clipped)


async def _by_database(task_id: UUID, settings: Settings) -> str | None:
    """Return the traceparent, "" if the task has none, or None if there is no such task."""
    database = Database(settings, connections=1, application_name="holdfast-trace")
    try:
        rows = await database.rows(_TRACEPARENT, {"id": task_id})
    finally:
        await database.close()
    return (rows[0]["traceparent"] or "") if rows else None


async def _by_api(task_id: UUID, settings: Settings, api: str) -> str | None:
    headers = {}
    if settings.api_keys:
        secret = next(iter(settings.api_keys.values()))[0]
        headers["Authorization"] = f"Bearer {secret.get_secret_value()}"
    where = f"{api.rstrip('/')}/tasks/{task_id}"
    async with httpx.AsyncClient(timeout=_API_SECONDS, headers=headers, trust_env=False) as client:
        try:
            answer = await client.get(where)
            if answer.status_code == httpx.codes.NOT_FOUND and "instance" in answer.json():
                return None
            answer.raise_for_status()
            return answer.json()["traceparent"] or ""
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise HoldfastError(
                f"cannot read the task at {where}: {error}; name another API with --api, or set "
                "HOLDFAST_DATABASE_URL to read from the database"
            ) from error
