"""Compare the answers clients received with the stored state: S2, S5, S10, S12. Each is O(n)."""

from __future__ import annotations

from collections import defaultdict

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.told import asked
from chaos.checker.invariants.violation import Violation, halves
from chaos.checker.model.request import same
from chaos.history.history import History, Operation
from chaos.history.records import Key, Record, TaskRow
from holdfast.model.task import DEFAULT_NAMESPACE


@invariant("S2", "tasks and effects with the submits")
def effects_justified(history: History) -> list[Violation]:
    """Every task and every effect stems from a submit that may have happened.

    A task needs a submit that was ok or unknown (refused ones do not count), an effect needs a
    task.
    """
    found: list[Violation] = []
    for task in history.tasks.values():
        submits = history.submits_by_task.get(task.task_id, ())
        if not any(submit.type in {"ok", "info"} for submit in submits):
            message = "was refused at submit" if submits else "was never submitted"
            found.append(Violation("S2", task.task_id, message, (task, *halves(*submits))))
    effects: tuple[tuple[Record, ...], ...] = (
        *history.effects.values(),
        *history.sql_effects.values(),
        *history.sink_calls.values(),
    )
    for rows in effects:
        for row in rows:
            task_id = getattr(row, "task_id", "")
            if task_id not in history.tasks:
                message = f"{row.kind} of a task that does not exist"
                found.append(Violation("S2", task_id, message, (row,)))
    return found


@invariant("S5", "accepted submits with the final read")
def nothing_lost(history: History) -> list[Violation]:
    """No accepted task is lost.

    Every task whose submit was answered ok is in the final read under the answered id. L1 checks
    that it also ends in time.
    """
    found: list[Violation] = []
    for submit in history.of("submit"):
        if submit.type != "ok":
            continue
        task_id = submit.value.get("task_id")
        if task_id not in history.tasks:
            message = (
                f"the submit of key {submit.value.get('key')} was accepted, but its task is missing"
            )
            found.append(Violation("S5", task_id, message, halves(submit)))
    return found


@invariant("S10", "submits of one key with each other and with the stored tasks")
def create_is_idempotent(history: History) -> list[Violation]:
    """One idempotency key creates one task; a different request under the key is refused.

    The name of the API key is a namespace: other names have other keys, whichever secret is sent.
    Every ok answer under a key names the same id and is for the same request, in every field (S18
    compares it with what is stored). The same request is never refused as a mismatch.
    """
    found: list[Violation] = []
    rows: defaultdict[Key, list[TaskRow]] = defaultdict(list)
    for task in history.tasks.values():
        if task.full_key is not None:
            rows[task.full_key].append(task)
    for key, tasks in rows.items():
        if len(tasks) > 1:
            message = f"key {_shown(key)} is stored on {len(tasks)} tasks"
            found.append(Violation("S10", tasks[1].task_id, message, tuple(tasks)))
    submits: defaultdict[Key, list[Operation]] = defaultdict(list)
    for submit in history.of("submit"):
        if submit.full_key is not None:
            submits[submit.full_key].append(submit)
    for key, together in submits.items():
        found += _one_key(history, key, together)
    return found


def _shown(key: Key) -> str:
    namespace, own = key
    return own if namespace == DEFAULT_NAMESPACE else f"{own} of {namespace}"


def _one_key(history: History, key: Key, submits: list[Operation]) -> list[Violation]:
    accepted = [submit for submit in submits if submit.type == "ok"]
    if not accepted:
        return []
    found: list[Violation] = []
    first, shown = accepted[0], _shown(key)
    task = history.task_by_key.get(key)
    task_id = task.task_id if task else first.value.get("task_id")
    for submit in submits:
        same_request = same(asked(submit), asked(first))
        wrong = None
        answered = history.tasks.get(str(submit.value.get("task_id")))
        if submit.type == "ok" and submit.value.get("task_id") != task_id:
            wrong = f"key {shown} was also answered with the id {submit.value.get('task_id')}"
        elif submit.type == "ok" and answered and answered.full_key != key:
            stored = "without a key" if answered.full_key is None else _shown(answered.full_key)
            wrong = f"key {shown} was answered with a task that is stored under key {stored}"
        elif submit.type == "ok" and not same_request:
            wrong = f"a different request under key {shown} was accepted"
        elif submit.type == "fail" and same_request and submit.value.get("status") == 422:
            wrong = f"the same request under key {shown} was refused as a mismatch"
        if wrong:
            found.append(Violation("S10", task_id, wrong, halves(first, submit)))
    return found


@invariant("S12", "reads with earlier submits and reads")
def read_your_ack(history: History) -> list[Violation]:
    """An accepted task can be read at once and never disappears.

    A GET or cancel that begins after the ok of the submit, or after another GET or cancel found
    the task, finds it too.
    """
    known: dict[str, tuple[float, Operation]] = {}
    for op in (*history.of("submit"), *history.of("get"), *history.of("cancel")):
        seen = op.type == "ok" and op.completion and not _absent(op)
        task_id = op.value.get("task_id")
        if seen and op.completion and task_id is not None:
            earlier = known.get(task_id)
            if earlier is None or op.completion.at < earlier[0]:
                known[task_id] = (op.completion.at, op)
    found: list[Violation] = []
    for read in (*history.of("get"), *history.of("cancel")):
        task_id = str(read.value["task_id"])
        since = known.get(task_id)
        if _absent(read) and since and read.invoke.at > since[0]:
            what = "GET" if read.invoke.op == "get" else "cancel"
            message = f"a {what} after the submit was accepted did not find the task"
            found.append(Violation("S12", task_id, message, halves(since[1], read)))
    return found


def _absent(operation: Operation) -> bool:
    """Return whether the answer was that the task does not exist."""
    if operation.invoke.op == "cancel":
        return operation.type == "fail" and operation.value.get("status") == 404
    read = operation.invoke.op == "get" and operation.type == "ok"
    return read and operation.value.get("state") is None
