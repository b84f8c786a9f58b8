"""What the handlers of a specimen see and say.

A payload gets its steps from the ends of its attempts, in the order of the calls that add them. So
records hold ``SEEN_LATER``, and ``testified`` fills it in once the history is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chaos.checker.model.json_value import digest
from chaos.history.records import Effect, Event, Record, SinkCall, SqlEffect
from chaos.tasks.steps import step_of
from holdfast.model.lifecycle import Reason

SEEN_LATER: dict[str, Any] = {}
TIMEOUT_SECONDS = 2.0
# What a handler is told, unless the test says something else, so that its attempt ends so.
TOLD: dict[Reason, dict[str, Any]] = {
    Reason.FAILED: {"do": "retry", "after": 0.0},
    Reason.DISCARDED: {"do": "discard"},
    Reason.TIMED_OUT: {"do": "hang"},
}
_RAISED = {
    "fail": "PlannedFailure",
    "fail_late": "PlannedFailure",
    "unstorable": "Unstorable",
    "retry": "Retry",
    "discard": "Discard",
}


def seen(payload: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """Return what a handler testifies in this attempt: it began at its claim."""
    return {"payload": digest(payload), "attempt": attempt, "seconds": TIMEOUT_SECONDS}


def testified(record: Record, payload: Mapping[str, Any], attempts: Mapping[int, int]) -> Record:
    """Return a record with what the handler that left it saw; ``attempts``: by their epochs."""
    if isinstance(record, Effect) and record.result is SEEN_LATER:
        step = step_of(payload, record.attempt)
        if step.get("whole"):
            return replace(record, result=step["value"])
        value = {"value": step["value"]} if "value" in step else {}
        about = {"number": payload["number"], "seen": seen(payload, record.attempt), "left": 0.0}
        return replace(record, result=about | value)
    if isinstance(record, SqlEffect | SinkCall) and record.seen is SEEN_LATER:
        return replace(record, seen=seen(payload, attempts[record.epoch]))
    if isinstance(record, Event) and record.detail is SEEN_LATER:
        return replace(record, detail={"error": _error(payload, record.attempt)})
    return record


def _error(payload: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """Return what the planned end of an attempt says about its exception."""
    do = step_of(payload, attempt)["do"]
    if do not in _RAISED:
        return {"type": "Stopped", "message": "timed out"}
    if do == "unstorable":
        return {"type": _RAISED[do], "message": "the result at /value cannot be stored as JSON"}
    message = f"planned: {do} seen {json.dumps(seen(payload, attempt))}"
    return {"type": _RAISED[do], "message": message}
