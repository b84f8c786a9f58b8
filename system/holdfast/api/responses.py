"""Build responses as JSON. ``models.py`` describes them; a test compares the two.

Plain dicts, since a pydantic object per task of a batch took a sixth of the time of a submit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Response

from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import Event, TaskRow, TaskStory

Json = dict[str, Any]


def json_response(
    content: Json, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return the content as a response; times end in Z."""
    body = orjson.dumps(content, option=orjson.OPT_UTC_Z)
    return Response(body, status, headers, "application/json")


def fragment(content: Json) -> orjson.Fragment:
    """Return the content as JSON text to be placed into a response: it takes less memory."""
    text = orjson.dumps(content, option=orjson.OPT_UTC_Z)
    return orjson.Fragment(bytes(memoryview(text)))  # without the spare memory of its buffer


def task_json(row: TaskRow) -> Json:
    """Return a ``models.Task`` without result and attempts."""
    return {
        "id": str(row.id),
        "name": row.name,
        "payload": orjson.Fragment(row.payload),
        "queue": row.queue,
        "priority": row.priority,
        "state": row.state,
        "run_at": row.run_at,
        "created_at": row.created_at,
        "due_at": row.due_at,
        "finished_at": row.finished_at,
        "epoch": row.epoch,
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "losses": row.losses,
        "handed_back": row.handed_back,
        "timeout_seconds": row.timeout_seconds,
        "cancel_requested": row.cancel_requested,
        "idempotency_key": row.idempotency_key,
        "traceparent": row.traceparent,
        "result": None,
        "attempts": None,
    }


def story_json(story: TaskStory) -> Json:
    """Return a complete ``models.Task``."""
    result = orjson.Fragment(story.effect.result) if story.effect else None
    return {**task_json(story.task), "result": result, "attempts": _attempts(story.events)}


def event_json(event: Event) -> Json:
    """Return a ``models.TaskEvent``."""
    return {
        "seq": event.seq,
        "at": event.at,
        "from_state": event.from_state,
        "to_state": event.to_state,
        "epoch": event.epoch,
        "attempt": event.attempt,
        "actor": event.actor,
        "reason": event.reason.text,
        "detail": event.detail,
    }


def _attempts(events: Sequence[Event]) -> list[Json]:
    """Return the attempts in the events: each from entering RUNNING to leaving it.

    The events are the latest ones: an attempt that began before them is left out.
    """
    attempts: list[Json] = []
    for event in events:
        if event.reason is Reason.CLAIMED:
            attempts.append(
                {
                    "attempt": event.attempt,
                    "epoch": event.epoch,
                    "worker": event.actor.removeprefix("worker:"),
                    "started_at": event.at,
                    "ended_at": None,
                    "outcome": None,
                    "error": None,
                }
            )
        elif attempts and event.from_state is State.RUNNING and event.to_state is not State.RUNNING:
            error = _error((event.detail or {}).get("error"))
            attempts[-1] |= {"ended_at": event.at, "outcome": event.reason.text, "error": error}
    return attempts


def _error(error: Json | None) -> Json | None:
    return error and {key: error.get(key) for key in ("type", "message", "traceback")}
