"""``holdfast trace``: the trace of one task, from Jaeger's query API.

Where the task's trace context comes from: the API, or the database where that is configured.
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

NOT_TOLD = "its end is not told yet"  # the outcome of an attempt whose own span is not there

_API_SECONDS = 10.0
_STRIKE_MAX = 600_000_000  # microseconds
_TRACEPARENT = text("SELECT traceparent FROM tasks WHERE id = :id")


class NoTrace(HoldfastError):
    """There is nothing to show; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TaskTrace:
    """``spans`` of one task, and what the chaos harness did meanwhile. ``page``: in Jaeger."""

    page: str
    spans: list[Span]


async def trace_of(task_id: UUID, settings: Settings, api: str | None = None) -> TaskTrace:
    """``api``: ask the API at this URL for the task.

    Raises:
        NoTrace: no such task, it is not sampled, Jaeger is away or does not have it (yet).
        HoldfastError: the API or the database is away.
    """
    if api is None and "database_url" not in settings.model_fields_set:
        api = f"http://{settings.api_host}:{settings.api_port}"
    found = await (_by_api(task_id, settings, api) if api else _by_database(task_id, settings))
    async with JaegerQuery(settings.jaeger_url) as jaeger:
        try:
            if found is None:
                return await _forgotten(task_id, jaeger)
            return await _recorded(task_id, found, jaeger)
        except JaegerError as error:
            raise NoTrace(f"{error}; HOLDFAST_JAEGER_URL says where it is") from error


async def _recorded(task_id: UUID, found: str, jaeger: JaegerQuery) -> TaskTrace:
    context = traceparent.parse(found)
    if context is None or not context.trace_flags.sampled:
        raise NoTrace(
            f"task {task_id} is not sampled: its trace was decided against when it was submitted "
            "(HOLDFAST_TRACE_RATIO, or the caller's traceparent)"
        )
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    spans = await jaeger.trace(trace_id)
    spans = family([*spans, *_open_attempts(spans, task_id)], span_id)
    if not spans:
        raise NoTrace(
            f"Jaeger at {jaeger.url} does not have trace {trace_id} of task {task_id}: it comes "
            "within seconds if HOLDFAST_OTLP_ENDPOINT of all roles leads there; or Jaeger has "
            "forgotten it"
        )
    return await _with_faults(trace_id, spans, jaeger)


async def _forgotten(task_id: UUID, jaeger: JaegerQuery) -> TaskTrace:
    """The task is in the database no more: Jaeger may remember it longer."""
    found = await jaeger.of_task("holdfast-scheduler", str(task_id))
    sent = next((span for span in found if span.name.startswith("send ") and span.parent_id), None)
    if sent is None or sent.parent_id is None:
        raise NoTrace(
            f"there is no task {task_id}: it was never stored, or its retention is over "
            f"(and Jaeger at {jaeger.url} does not know it either)"
        )
    trace = [span for span in found if span.trace_id == sent.trace_id]
    return await _with_faults(sent.trace_id, family(trace, sent.parent_id), jaeger)


def _open_attempts(spans: Sequence[Span], task_id: UUID) -> Iterator[Span]:
    """Attempts that were claimed and whose own span is not there: what ran in them hangs below."""
    told = {span.span_id for span in spans}
    for claim in spans:
        mine = claim.attributes.get("holdfast.task.id") == str(task_id)
        if not mine or claim.name != "queued":
            continue
        span_id = f"{attempt_span_id(task_id, int(claim.attributes['holdfast.epoch'])):016x}"
        if span_id not in told:
            seen = max((span.end for span in spans if span.parent_id == span_id), default=claim.end)
            yield replace(
                claim,
                span_id=span_id,
                name="process",
                start=claim.end,
                duration=max(0, seen - claim.end),
                attributes={**claim.attributes, "holdfast.outcome": NOT_TOLD},
            )


async def _with_faults(trace_id: str, spans: list[Span], jaeger: JaegerQuery) -> TaskTrace:
    """Strikes of a chaos run have a trace of their own; of each, what lies in the task's time."""
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    strikes = [
        replace(strike, parent_id=None, start=max(first, strike.start))
        for strike in await jaeger.between(FAULTS, first - _STRIKE_MAX, last)
        if strike.trace_id != trace_id and strike.parent_id
        if strike.start <= last and strike.end >= first
    ]
    clipped = [replace(each, duration=min(last - each.start, each.duration)) for each in strikes]
    return TaskTrace(jaeger.page(trace_id), spans + clipped)


async def _by_database(task_id: UUID, settings: Settings) -> str | None:
    """The traceparent ("" where it has none); None: no such task."""
    database = Database(settings, connections=1, application_name="holdfast-trace")
    try:
        rows = await database.rows(_TRACEPARENT, {"id": task_id})
    finally:
        await database.close()
    return (rows[0]["traceparent"] or "") if rows else None


async def _by_api(task_id: UUID, settings: Settings, api: str) -> str | None:
    headers = {}
    if settings.api_keys:
        headers["Authorization"] = f"Bearer {settings.api_keys[0].get_secret_value()}"
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
                f"no task from the API at {where}: {error}; --api names another one, and with "
                "HOLDFAST_DATABASE_URL the database is asked instead"
            ) from error
