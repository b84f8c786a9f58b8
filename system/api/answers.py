"""Answers as JSON. ``models.py`` says what they look like, and tests hold the two together.

Plain dicts: an object of pydantic for each task of a batch was a sixth of what a submit costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Response

from system.lifecycle import Reason, State
from system.records import Event, TaskRow, TaskStory

Json = dict[str, Any]


def response(content: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The content as a response; instants end in Z."""
    body = orjson.dumps(content, option=orjson.OPT_UTC_Z)
    return Response(body, status, headers, "application/json")


def of_task(row: TaskRow) -> Json:
    """``models.Task`` without result and attempts."""
    return {
        "id": str(row.id),
        "name": row.name,
        "payload": row.payload,
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


def of_story(story: TaskStory) -> Json:
    """``models.Task`` with everything."""
    result = story.effect.result if story.effect else None
    return {**of_task(story.task), "result": result, "attempts": _attempts(story.events)}


def of_event(event: Event) -> Json:
    """``models.TaskEvent``."""
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
    """The attempts that the events tell of: from entering RUNNING to leaving it."""
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
        elif event.from_state is State.RUNNING and event.to_state is not State.RUNNING:
            error = _error((event.detail or {}).get("error"))
            attempts[-1] |= {"ended_at": event.at, "outcome": event.reason.text, "error": error}
    return attempts


def _error(error: Json | None) -> Json | None:
    return error and {key: error.get(key) for key in ("type", "message", "traceback")}
