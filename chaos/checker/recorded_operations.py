"""Check what clients recorded of operations: the outcome of each, and that requests differ.

These rules are written again from the README and the OpenAPI document. The clients and the
generator of the workload have their own, which may be wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

from chaos.history.history import History, Operation
from chaos.history.records import Key
from chaos.scenario.operations import Workload
from chaos.tasks.declarations import DECLARATIONS

_SHOWN = 3
# With fewer tasks than this, values may be equal by chance.
_MANY = 30
# A cancel or retry that was done, by its status: what its answer is called.
_ANSWERS = {
    ("cancel", 200): "cancelled",
    ("cancel", 202): "requested",
    ("cancel", 409): "too_late",
    ("retry", 200): "retried",
    ("retry", 409): "refused",
    ("cancel", 503): "done",
    ("retry", 503): "done",
}


def misread(history: History) -> Iterator[str]:
    """Yield the outcomes that do not follow from the recorded status and type of problem."""
    wrong = [
        f"{op.invoke.op} {op.invoke.op_id}: {message}"
        for op in history.operations.values()
        if op.completion is not None and (message := contradiction(op) or _unknown_status(op))
    ]
    if wrong:
        yield f"outcomes contradict the answers: {some(wrong, '; ')}"


def _unknown_status(operation: Operation) -> str:
    return "recorded without a status" if operation.value.get("status") is None else ""


def contradiction(operation: Operation) -> str:
    """Return how the outcome contradicts the status of the answer, if known; "" if it does not."""
    value, op = operation.value, operation.invoke.op
    status, problem = value.get("status"), value.get("problem")
    if status is None or operation.completion is None:
        return ""
    if not isinstance(status, int):
        return f"recorded with the status {status}"
    due = _outcome(op, status, problem)
    if operation.type != due:
        named = f"{status} {problem}" if problem else str(status)
        return f"{named} recorded as {operation.type} instead of {due}"
    answer = _ANSWERS.get((op, status)) if due == "ok" else value.get("answer")
    if answer != value.get("answer"):
        return f"{status} recorded as {value.get('answer')} instead of {answer}"
    if op == "get" and due == "ok" and (status == 404) != (value.get("state") is None):
        return f"{status} recorded with the state {value.get('state')}"
    return ""


def _outcome(op: str, status: int, problem: object) -> Literal["ok", "fail", "info"]:
    """Return what an answer says: it was done (or read), it was not, or neither."""
    if status == 0:
        return "info"
    if status < 300:
        return "ok"
    if op in {"get", "events"} and status == 404:
        return "ok"
    if op in {"cancel", "retry"} and (status == 409 or problem == "done-but-unread"):
        return "ok"
    certain = status < 500 or problem in ("unavailable", "overloaded")
    return "fail" if certain else "info"


def alike(
    workload: Workload, recorded: Iterable[Operation], invalid: Collection[str]
) -> Iterator[str]:
    """Yield what tasks have in common that a mix-up between them could hide behind.

    ``invalid``: keys of submits that make no task.
    """
    keys: defaultdict[Key | None, list[dict[str, Any]]] = defaultdict(list)
    for operation in recorded:
        sent = operation.invoke.value
        if operation.invoke.op == "submit" and sent["key"] not in invalid:
            keys[operation.full_key].append(sent)
    tasks = workload.tasks_submitted
    if "submit" in workload.without:
        return
    if len(keys) != tasks:
        yield f"{tasks} tasks were planned, but {len(keys)} keys were used"
    # A mismatch may have another number, which is below 0. Each namespace has tasks of all numbers.
    declared = {
        key: [sent["payload"] for sent in submits if sent["name"] in DECLARATIONS]
        for key, submits in keys.items()
    }
    numbers = [
        {
            (key and key[0], payload.get("number"))
            for payload in payloads
            if payload.get("number") != -1
        }
        for key, payloads in declared.items()
        if payloads
    ]
    if len(set().union(*numbers)) < len(numbers):
        yield "payloads of different tasks have the same number"
    if len(keys) >= _MANY:
        yield from _constant(workload, keys, declared)


def _constant(
    workload: Workload,
    keys: dict[Key | None, list[dict[str, Any]]],
    declared: dict[Key | None, list[dict[str, Any]]],
) -> Iterator[str]:
    seconds = {each.get("seconds") for payloads in declared.values() for each in payloads}
    least, most = workload.handler_seconds
    if any(declared.values()) and least < most and len(seconds) < 2:
        yield f"all attempts take {seconds.pop()} s"
    if not workload.differences.requests:
        return
    for name, default in (("queue", "default"), ("priority", 0), ("timeout_seconds", None)):
        sent = {submits[0].get(name, default) for submits in keys.values()}
        if len(sent) < 2 and not (name == "queue" and len(workload.differences.queues) == 1):
            yield f"all tasks have {name} {sent.pop()}"


def some(parts: list[str], separator: str = ", ") -> str:
    """Join the first parts, and say how many more there are."""
    more = len(parts) - _SHOWN
    return separator.join(parts[:_SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")
