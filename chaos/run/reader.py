"""Read tasks, listings and metrics over HTTP once a run is at rest."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chaos.clients.client import Client, OperationLog
from chaos.clients.http import connection, send
from chaos.history.rest import MetricSample, Scrape
from chaos.scenario.reads import filters
from chaos.scenario.workload import Kind, PlannedOperation

# A request costs 3 ms of processor time in simulation. Of more tasks than these a sample is read;
# the walks show all of them.
TASKS_MAX = 24
_WALKS = 6
_PAGES_MAX = 4
_LIMIT_MAX = 200
_TIMES = (
    ("created_at", "created_after", "created_before"),
    ("run_at", "run_after", "run_before"),
)
PROCESS = "reader"
_ERROR_CHARACTERS = 300


def planned(seed: int, tasks: Sequence[dict[str, str]]) -> list[PlannedOperation]:
    """Return the reads: each task or a sample of them, and walks with several filters.

    ``tasks``: ``id``, ``name``, ``queue``, ``created_at`` and ``run_at`` of each.
    """
    draw = random.Random(f"final reads {seed}")
    sample = draw.sample(tasks, min(TASKS_MAX, len(tasks)))
    kinds: tuple[Kind, ...] = ("get", "events")
    found = [PlannedOperation(0.0, 0, kind, task["id"]) for task in sample for kind in kinds]
    queries = [_query(draw, task, sample) for task in sample[:_WALKS]]
    queries.append({"limit": max(1, min(_LIMIT_MAX, len(tasks) // 3))})
    walks = (PlannedOperation(0.0, 0, "list", request=q, pages=_PAGES_MAX) for q in queries)
    return [*found, *walks]


def _query(
    draw: random.Random, task: dict[str, str], tasks: Sequence[dict[str, str]]
) -> dict[str, Any]:
    """Draw filters; those of time, if any, begin or end at the very instants of tasks."""
    field, after, before = draw.choice(_TIMES)
    instants = sorted((task[field], draw.choice(tasks)[field]))
    chosen = draw.sample((after, before), draw.randrange(3))
    between = {n: at for n, at in zip((after, before), instants, strict=True) if n in chosen}
    return filters(draw, task) | {"limit": draw.randint(5, 50)} | between


async def scrape(url: str, actor: str, at: float, secret: str | None = None) -> Scrape:
    """Read the product's own metrics of a role; what hinders is recorded for S28 to judge."""
    async with connection(url, secret) as http:
        try:
            answer = await http.get("/metrics")
        except httpx.HTTPError as error:
            return Scrape(actor=actor, at=at, status=0, error=repr(error)[:_ERROR_CHARACTERS])
    try:
        samples, error_text = _samples(answer.text), ""
    except Exception as error:  # noqa: BLE001 - the parser raises whatever the text makes it raise
        samples, error_text = (), f"not an exposition: {error!r}"[:_ERROR_CHARACTERS]
    return Scrape(actor=actor, at=at, status=answer.status_code, error=error_text, samples=samples)


def _samples(exposition: str) -> tuple[MetricSample, ...]:
    """Parse an exposition; ValueError where a value is not a finite number."""
    found = tuple(
        MetricSample(name=sample.name, labels=dict(sample.labels), value=float(sample.value))
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name.startswith("holdfast_") and not sample.name.endswith("_bucket")
    )
    if odd := next((sample for sample in found if not math.isfinite(sample.value)), None):
        raise ValueError(f"{odd.name} {odd.labels} = {odd.value}")
    return found


async def read_all(
    api_url: str,
    operations: Sequence[PlannedOperation],
    log: OperationLog,
    secret: str | None = None,
) -> None:
    """Run the reads one after the other as the process ``reader``; ``log`` records them."""
    known = {operation.key: operation.key for operation in operations}
    client = Client(0, list(operations), log, process=PROCESS, known=known)
    async with connection(api_url, secret) as http:
        while client.due is not None:
            request = client.next_request()
            if request is not None:
                client.handle_response(await send(http, request))
