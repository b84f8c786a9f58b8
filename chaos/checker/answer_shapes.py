"""Check that completions have the members that the OpenAPI document promises, before they are used.

The invariants rely on these members. A completion that lacks one is taken for unknown instead, so
that it cannot make a check crash, and reported: as a violation of S22 if the API answered so, as a
doubt if the recorded outcome contradicts the status of the answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from chaos.checker.invariants.violation import Violation, halves
from chaos.checker.recorded_operations import contradiction
from chaos.history.history import History, Operation
from chaos.history.records import Instant, Op


class _Members(BaseModel):
    """Required members of a JSON object, by their types; others may be added to the API."""

    model_config = ConfigDict(strict=True, extra="ignore")


class ErrorShape(_Members):
    """An exception, as an attempt shows it."""

    type: str
    message: str
    traceback: str | None


class AttemptShape(_Members):
    """An attempt, as a whole task shows it."""

    attempt: int
    epoch: int
    worker: str
    started_at: Instant
    ended_at: Instant | None
    outcome: str | None
    error: ErrorShape | None


class TaskShape(_Members):
    """A task, as every answer shows it."""

    id: str
    name: str
    payload: dict[str, Any]
    queue: str
    priority: int
    state: str
    run_at: Instant
    created_at: Instant
    due_at: Instant
    finished_at: Instant | None
    epoch: int
    attempt: int
    max_attempts: int
    losses: int
    handed_back: int
    timeout_seconds: float
    cancel_requested: bool
    idempotency_key: str | None
    traceparent: str | None
    result: Any
    attempts: list[AttemptShape] | None


class EventShape(_Members):
    """A transition, as the events of a task show it."""

    seq: int
    at: Instant
    from_state: str | None
    to_state: str
    epoch: int
    attempt: int
    actor: str
    reason: str
    detail: dict[str, Any] | None


class _Said(_Members):
    """What completions of any operation may have."""

    status: int = 0
    error: str = ""
    problem: str = ""


class _Submitted(_Said):
    task_id: str
    task: TaskShape


class _Refused(_Said):
    task_id: str | None = None
    state: str | None = None
    pointers: list[str | None] = []


class _Done(_Said):
    answer: str
    state: str | None = None
    task: TaskShape | None = None


class _Missing(_Said):
    state: None
    task: None = None


class _ReadTask(_Said):
    state: str
    task: TaskShape


class _Events(_Said):
    events: list[EventShape] | None


class _Page(_Said):
    tasks: list[TaskShape]
    next_cursor: str | None


_OK: dict[str, type[_Members]] = {
    "submit": _Submitted,
    "cancel": _Done,
    "retry": _Done,
    "get": _ReadTask,
    "events": _Events,
    "list": _Page,
}
# Answers to a cancel or retry that show the task.
_SHOWING = ("cancelled", "requested", "retried")


def well_formed(history: History) -> tuple[History, list[Violation], list[str]]:
    """Return the history with malformed completions taken for unknown, and who made them.

    The violations are those of the API, the doubts those of the clients.
    """
    wrong = {
        operation.invoke.op_id: (operation, problem)
        for operation in history.operations.values()
        if (problem := malformed(operation))
    }
    if not wrong:
        return history, [], []
    violations: list[Violation] = []
    doubts: list[str] = []
    for operation, problem in wrong.values():
        op, own = operation.invoke, contradiction(operation)
        if own:
            doubts.append(f"the outcome of {op.op} {op.op_id} is malformed: {problem} ({own})")
        else:
            message = f"the answer to a {op.op} ({op.op_id}) is not as documented: {problem}"
            task_id = op.value.get("task_id")
            violations.append(Violation("S22", task_id, message, halves(operation)))
    records = (
        replace(record, type="info", value={})
        if isinstance(record, Op) and record.type != "invoke" and record.op_id in wrong
        else record
        for record in history.records
    )
    return History(records), violations, doubts


def malformed(operation: Operation) -> str:
    """Return the first member of a completion that is missing or wrong; "" if there is none."""
    completion, invoke = operation.completion, operation.invoke
    if completion is None:
        return ""
    value = completion.value
    repeated = (name for name in value.keys() & invoke.value.keys())
    if differing := [name for name in repeated if value[name] != invoke.value[name]]:
        return f"{differing[0]} is not that of the request"
    try:
        _shape(operation).model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if completion.type == "ok" and invoke.op in {"cancel", "retry"}:
        needed = "task" if value["answer"] in _SHOWING else "state"
        if value.get(needed) is None and value["answer"] != "done":
            return f"{needed}: Field required"
    return ""


def _shape(operation: Operation) -> type[_Members]:
    if operation.type != "ok":
        return _Refused
    if operation.invoke.op == "get" and operation.value.get("state") is None:
        return _Missing
    return _OK[operation.invoke.op]
