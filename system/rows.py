"""Result rows as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping

from system.lifecycle import Reason, State
from system.records import (
    Acted,
    Answer,
    Claimed,
    Dispatch,
    Dispatched,
    Effect,
    Event,
    Grant,
    TakenBack,
    TaskRow,
    TaskStory,
)


def row_to_task(row: Mapping[str, Any] | RowMapping) -> TaskRow:
    """A result row of ``statements.TASK_COLUMNS`` as a TaskRow."""
    values = dict(row)
    values["state"] = State(values["state"])
    values["payload"] = json_value(values["payload"])
    return TaskRow(**values)


def json_value(value: Any) -> Any:
    """A jsonb column as Python; some drivers decode it, asyncpg hands over the text."""
    return orjson.loads(value) if isinstance(value, str | bytes) else value


def rows_to_dispatch(rows: Sequence[RowMapping]) -> Dispatch:
    """What a dispatch answered: a row for each task, or one that only says when to come again."""
    tasks = [{**row} for row in rows]
    seconds = [task.pop("next_due_seconds") for task in tasks]
    dispatched = tuple(Dispatched(**task) for task in tasks if task["task_id"])
    return Dispatch(dispatched, seconds[0])


def row_to_taken_back(row: RowMapping) -> TakenBack:
    """What a take-back answered for one attempt."""
    return TakenBack(
        **{**row, "state": State(row["state"]), "reason": Reason(row["reason"])},
    )


def rows_to_claimed(rows: Sequence[RowMapping]) -> Claimed:
    """What a claim answered."""
    grants, deferred, again = [], [], 0
    for row in rows:
        values = dict(row)
        again += values.pop("again")
        if values.pop("granted"):
            grants.append(Grant(**{**values, "payload": json_value(values["payload"])}))
        else:
            deferred.append(values["task_id"])
    return Claimed(tuple(grants), frozenset(deferred), again)


def rows_to_answers(rows: Sequence[RowMapping]) -> list[Answer]:
    """What a guarded statement answered, id by id."""
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


def rows_to_acted(rows: Sequence[RowMapping]) -> list[Acted]:
    """What a cancel or retry answered, id by id."""
    return [
        Acted(**{**row, "state": _state(row["state"]), "found": _state(row["found"])})
        for row in rows
    ]


def row_to_story(row: RowMapping) -> TaskStory:
    """A row of ``statements.STORY``: the task with its events and its effect."""
    values = dict(row)
    events = json_value(values.pop("events")) or []
    effect = json_value(values.pop("effect"))
    return TaskStory(
        task=row_to_task(values),
        events=tuple(_event(event) for event in events),
        effect=_effect(effect) if effect else None,
    )


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


def _effect(values: dict[str, Any]) -> Effect:
    ids = {key: UUID(values[key]) for key in ("effect_key", "task_id")}
    return Effect(**{**values, **ids, "at": _instant(values["at"])})


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
