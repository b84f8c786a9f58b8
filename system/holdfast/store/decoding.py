"""Convert results to rows, and rows to records. Converters may mutate the rows they get."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import CursorResult

from holdfast.model.claim import Claimed, Grant, ReclaimedAttempt
from holdfast.model.dispatch import Dispatch, Dispatched
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import ActionResult, Answer, Effect, Event, TaskRow, TaskStory

Row = dict[str, Any]  # column name -> value


def all_rows(result: CursorResult[Any]) -> list[Row]:
    """Return the rows of a result as dicts. (Converting RowMappings takes twice as long.)"""
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result.all()]


def row_to_task(row: Row) -> TaskRow:
    """Convert a row of ``transitions.TASK_COLUMNS``."""
    row["state"] = State(row["state"])
    row["payload"] = bytes(row["payload"] or b"")
    return TaskRow(**row)


def json_value(value: Any) -> Any:
    """Decode a jsonb value; some drivers already did, asyncpg returns the text."""
    return orjson.loads(value) if isinstance(value, str | bytes) else value


def rows_to_dispatch(rows: Sequence[Row]) -> Dispatch:
    """Convert the rows of a dispatch: one per task, or one with only the next due time."""
    seconds = [row.pop("next_due_seconds") for row in rows]
    dispatched = tuple(Dispatched(**row) for row in rows if row["task_id"])
    return Dispatch(dispatched, seconds[0])


def row_to_reclaimed(row: Row) -> ReclaimedAttempt:
    """Convert a row of a reclaim; its epoch is the task's, one above the attempt's."""
    row["epoch"] -= 1
    return ReclaimedAttempt(
        **{**row, "state": State(row["state"]), "reason": Reason(row["reason"])},
    )


def rows_to_claimed(rows: Sequence[Row]) -> Claimed:
    """Convert the rows of a claim."""
    grants, others, again = [], [], 0
    for row in rows:
        again += row.pop("again")
        if row.pop("granted"):
            grants.append(Grant(**row))
        else:
            others.append((row["task_id"], row["quarantined"]))
    # Beside a grant, only the size of the reply keeps a task from being granted that is not
    # quarantined.
    remaining = {task_id for task_id, quarantined in others if grants and not quarantined}
    return Claimed(
        grants=tuple(grants),
        deferred=frozenset(task_id for task_id, _ in others if task_id not in remaining),
        remaining=frozenset(remaining),
        again=again,
    )


def rows_to_answers(rows: Sequence[Row]) -> list[Answer]:
    """Convert the rows of a finish or release, one per id."""
    return [
        Answer(
            task_id=row["task_id"],
            made=row["made"],
            done=row["done"],
            state=_state(row["state"]),
            epoch=row["epoch"],
        )
        for row in rows
    ]


def rows_to_action_results(rows: Sequence[Row]) -> list[ActionResult]:
    """Convert the rows of a cancel or retry, one per id."""
    return [
        ActionResult(**{**row, "state": _state(row["state"]), "found": _state(row["found"])})
        for row in rows
    ]


def row_to_story(row: Row) -> TaskStory:
    """Convert a row of ``transitions.STORY``: the task with its events and its effect."""
    events = json_value(row.pop("events")) or []
    effect = json_value(row.pop("effect"))
    result = row.pop("result")
    return TaskStory(
        task=row_to_task(row),
        events=tuple(_event(event) for event in events),
        effect=_effect(effect, bytes(result or b"null")) if effect else None,
    )


def rows_to_events(rows: Sequence[Row]) -> tuple[list[Event], bool] | None:
    """Convert the rows of a page of events, and whether more follow; None if no such task."""
    if not rows:
        return None
    found = [row for row in rows if row["seq"] is not None]
    within = [row for row in found if row.pop("within")]
    events = [
        Event(
            **{
                **row,
                "from_state": _state(row["from_state"]),
                "to_state": State(row["to_state"]),
                "reason": Reason(row["reason"]),
                "detail": json_value(row["detail"]),
            }
        )
        for row in within
    ]
    return events, len(within) < len(found)


def _state(name: str | None) -> State | None:
    return State(name) if name else None


def _event(values: dict[str, Any]) -> Event:
    return Event(
        **{
            **values,
            "task_id": UUID(values["task_id"]),
            "at": _instant(values["at"]),
            "from_state": _state(values["from_state"]),
            "to_state": State(values["to_state"]),
            "reason": Reason(values["reason"]),
        }
    )


def _effect(values: dict[str, Any], result: bytes) -> Effect:
    ids = {key: UUID(values[key]) for key in ("effect_key", "task_id")}
    return Effect(**{**values, **ids, "at": _instant(values["at"]), "result": result})


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
