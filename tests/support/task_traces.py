"""Submit sampled tasks and check the spans of their attempts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from bench import Bench
from otlp_receiver import Receiver, Seen

from holdfast.handlers import Context
from holdfast.model.lifecycle import State
from holdfast.telemetry import traceparent
from holdfast.telemetry.trace_context import attempt_span_id, new_root

Payload = dict[str, Any]
SECRET = "s3cr3t-payl0ad"


def sampled() -> str:
    return traceparent.write(new_root(1.0))


async def submit(bench: Bench, name: str, **fields: Any) -> tuple[UUID, str]:
    """Submit a sampled task; return its id and the context of its create span."""
    create = sampled()
    (task_id,) = await bench.submit(name, traceparent=create, **fields)
    return task_id, create


async def attempts(collector: Receiver, bench: Bench, task_id: UUID) -> list[Seen]:
    """Return the spans of the attempts, after comparing them with the event log."""
    ends = [
        (event.epoch - 1, event.attempt, event.reason.text)
        for event in (await bench.story(task_id)).events
        if event.from_state is State.RUNNING and event.to_state is not State.RUNNING
    ]
    spans = await collector.until("process default", len(ends), task_id)
    named = ("holdfast.epoch", "holdfast.attempt", "holdfast.outcome")
    assert sorted(tuple(s.attributes[name] for name in named) for s in spans) == sorted(ends)
    for span in spans:
        assert int(span.span_id, 16) == attempt_span_id(task_id, span.attributes["holdfast.epoch"])
    return spans


def register_echo(bench: Bench) -> None:
    @bench.registry.task("echo")
    async def echo(ctx: Context, payload: Payload) -> Payload:
        return payload
