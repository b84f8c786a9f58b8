"""Responses match their documentation: ``responses.py`` against ``models.py``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from holdfast.api import responses
from holdfast.api.models import BatchResult, Task, TaskEvent
from holdfast.model.lifecycle import Reason, State
from holdfast.model.task import Effect, Event, TaskRow, TaskStory

INSTANTS = st.datetimes(
    datetime(1, 1, 1),  # noqa: DTZ001
    datetime(9999, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)
COUNTS = st.integers(0, 2**31 - 1)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abü", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text("abü", max_size=3), JSON, max_size=3)
ROWS = st.builds(
    TaskRow,
    id=st.uuids(),
    key_namespace=st.just("default"),
    queue=st.text("abc", min_size=1),
    priority=st.integers(0, 9),
    name=st.text("abc", min_size=1),
    payload=OBJECTS.map(orjson.dumps),
    idempotency_key=st.none() | st.text("k"),
    traceparent=st.none() | st.just("00-1-2-01"),
    run_at=INSTANTS,
    due_at=INSTANTS,
    state=st.sampled_from(State),
    epoch=COUNTS,
    seq=COUNTS,
    attempt=COUNTS,
    losses=COUNTS,
    handed_back=COUNTS,
    max_attempts=COUNTS,
    max_losses=COUNTS,
    timeout_seconds=st.floats(0.001, 604800),
    cancel_requested=st.booleans(),
    worker_id=st.none(),
    claimed_at=st.none(),
    created_at=INSTANTS,
    finished_at=st.none() | INSTANTS,
)
ERRORS = st.fixed_dictionaries(
    {"type": st.text("E"), "message": st.text()},
    optional={"traceback": st.text("T"), "more": st.just(1)},
)
TASK_ID, WORKER = UUID(int=1), "worker:0197a1b0-0000-7000-8000-000000000001"


def event(
    seq: int, at: datetime, source: State, target: State, reason: Reason, detail: Any
) -> Event:
    return Event(TASK_ID, seq, at, source, target, seq, seq, WORKER, reason, detail)


def shown(model: type[BaseModel], answer: dict[str, Any]) -> None:
    """Check that the answer has exactly the model's members, serialised as the model does."""
    sent = json.loads(cast("bytes", responses.json_response(answer).body))
    assert sent == json.loads(model.model_validate(sent).model_dump_json())
    assert list(sent) == list(model.model_fields)


@given(ROWS)
def test_task_json_matches_the_model(row: TaskRow) -> None:
    shown(Task, responses.task_json(row))
    shown(
        BatchResult, {"index": 0, "status": 201, "task": responses.task_json(row), "problem": None}
    )


@given(
    ROWS,
    JSON,
    st.lists(st.tuples(INSTANTS, INSTANTS, st.none() | ERRORS), max_size=3),
    st.booleans(),
)
def test_story_json_matches_the_model(
    row: TaskRow, result: Any, runs: list[Any], running: bool
) -> None:
    events: list[Event] = []
    for began, ended, error in runs:
        events.append(event(len(events), began, State.QUEUED, State.RUNNING, Reason.CLAIMED, None))
        detail = {"error": error} if error else None
        events.append(
            event(len(events), ended, State.RUNNING, State.SCHEDULED, Reason.FAILED, detail)
        )
    if running and events:
        events.pop()
    effect = Effect(row.id, row.id, 2, 1, row.created_at, orjson.dumps(result))
    answer = responses.story_json(TaskStory(row, tuple(events), effect))
    shown(Task, answer)
    sent = json.loads(cast("bytes", responses.json_response(answer).body))
    assert sent["result"] == json.loads(json.dumps(result))
    assert [each["ended_at"] is None for each in answer["attempts"]] == [
        running and number == len(runs) - 1 for number in range(len(runs))
    ]
    for each in events:
        shown(TaskEvent, responses.event_json(each))
