"""What the API shows of the tasks of a specimen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from testimonies import SEEN_LATER

from chaos.history.records import Effect, Event, Record
from holdfast.model.lifecycle import Reason, State

Shown = dict[str, Any]


def attempts_of(events: Sequence[Shown]) -> list[Shown]:
    """Return the attempts that a task with these events, as the API shows them, shows."""
    found: list[Shown] = []
    for event in events:
        if event["reason"] == Reason.CLAIMED.text:
            worker = event["actor"].removeprefix("worker:")
            claim = {"attempt": event["attempt"], "epoch": event["epoch"], "worker": worker}
            claim |= {"started_at": event["at"], "ended_at": None}
            found.append(claim | {"outcome": None, "error": None})
        elif event["from_state"] == State.RUNNING != event["to_state"]:
            detail = event["detail"]
            error = detail and _whole(detail["error"])  # SEEN_LATER is empty
            found[-1] |= {"ended_at": event["at"], "outcome": event["reason"], "error": error}
    return found


def filled_in(value: Shown, records: Sequence[Record]) -> Shown:
    """Replace SEEN_LATER in an answer by what the final records of its task say."""
    task = value.get("task")
    if task is not None and task.get("attempts") is not None:
        mine = [r for r in records if getattr(r, "task_id", None) == task["id"]]
        ends = {e.epoch: e for e in mine if isinstance(e, Event) and e.from_state == State.RUNNING}
        attempts = [
            shown | {"error": _whole((ends[shown["epoch"] + 1].detail or {})["error"])}
            if shown["error"] == SEEN_LATER
            else shown
            for shown in task["attempts"]
        ]
        task = task | {"attempts": attempts}
        if task["result"] == SEEN_LATER:
            task |= {"result": next(r.result for r in mine if isinstance(r, Effect))}
        return value | {"task": task}
    if value.get("events"):
        return value | {"events": [_told(event, records) for event in value["events"]]}
    return value


def _told(shown: Shown, records: Sequence[Record]) -> Shown:
    same = (
        record
        for record in records
        if isinstance(record, Event) and (record.at, record.seq) == (shown["at"], shown["seq"])
    )
    return shown | {"detail": next(same).detail}


def _whole(error: Shown) -> Shown:
    return {name: error.get(name) for name in ("type", "message", "traceback")}
