"""Check what refusals, errors and actions claim: S24."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.prefixes import SLACK_SECONDS, Answers, TaskLog
from chaos.checker.invariants.told import asked
from chaos.checker.invariants.violation import Violation, halves
from chaos.checker.model.request import invalid_fields, same
from chaos.history.history import History, Operation
from chaos.history.records import Event, TaskRow
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import Reason, State

# The types of the problems that say what became of a request which failed on the server's side.
_SAYS_WHAT_BECAME = frozenset({"unavailable", "overloaded", "outcome-unknown", "done-but-unread"})
_KEY_REUSED = "idempotency-key-reused"
_INVALID = "invalid-request"
_UNKNOWN_QUEUE = "unknown-queue"
_STORE = "postgres"


@invariant("S24", "refusals and failures with the log, the submits and the faults")
def refusals_justified(history: History) -> list[Violation]:
    """Every refusal has its reason, and every action that an answer claims was done.

    At some instant of the operation the task was in the state that a 409 names, and that state
    justifies it (cancel: SUCCEEDED or FAILED; retry: any but FAILED). A retry that was done has an
    event of its own during the operation; a cancel that was done found the task CANCELLED or left
    it so (``cancelled``), or RUNNING with the request (``requested``). (S22 judges 404.)
    Each task was created during a submit of its key that was answered 201 or is unknown, so one
    that was answered with ``nothing was done``, or refused, created nothing. A 422 under a used
    key names the stored task, and another submit of the key asked for something else. A submit with
    a field that the OpenAPI document does not allow, alone or beside valid ones in a batch, is
    refused with a 422 that points to this field. A valid submit is refused because its queue is
    unknown if, and only if, no worker reads the queue and no setting names it. No other request of
    a client is refused with a 4xx: all of them are valid.
    A failure of the server says what became of the request: no 500, no unnamed 5xx. Until a fault
    hits an API, Postgres or the way to either, no request fails, and they do not all go unanswered
    (on a crowded machine, one may).
    """
    answers = history.view(Answers)
    found = [
        Violation("S24", _task_id(operation), message, halves(operation))
        for operation in history.operations.values()
        if (
            message := _wrong_answer(answers, operation)
            or _wrong_validity(operation)
            or _unexplained(history, operation)
        )
    ]
    found += _queues(history)
    found += _retries(history)
    found += _creations(history)
    found += _mismatches(history)
    return found


def _task_id(operation: Operation) -> str | None:
    task_id = operation.value.get("task_id")
    return None if task_id is None else str(task_id)


def _wrong_answer(answers: Answers, operation: Operation) -> str:
    """Return what is wrong with the answer of one operation; "" if nothing is."""
    value, op = operation.value, operation.invoke.op
    status, problem = value.get("status", 0), value.get("problem")
    if status >= 500 and problem not in _SAYS_WHAT_BECAME:
        return f"a {op} was answered {status} {problem or 'without a problem type'}"
    log = answers.log(str(value.get("task_id")))
    if operation.type != "ok" or op not in {"cancel", "retry"} or log is None:
        return ""
    window = answers.window(log, operation)
    answer, state = value.get("answer"), value.get("state")
    if answer in {"too_late", "refused"}:
        return _wrong_refusal(log, window, str(answer), state)
    if op == "cancel" and not any(_cancelled(log, k, str(answer)) for k in window):
        return f"a cancel was answered {answer}, but was not done"
    return ""


def _wrong_validity(operation: Operation) -> str:
    """Return what is wrong with the answer of an operation that takes a request for (in)valid."""
    op, value = operation.invoke.op, operation.value
    fields = invalid_fields(operation.invoke.value) if op == "submit" else frozenset[str]()
    status, problem = value.get("status", 0), value.get("problem")
    what = f"a submit with an invalid {', '.join(sorted(fields))}"
    if operation.type == "ok":
        return f"{what} was accepted" if fields else ""
    if not 400 <= status < 500:
        return ""
    if not fields:
        elsewhere = problem in {_KEY_REUSED, _UNKNOWN_QUEUE}
        elsewhere |= status == 404 and op in {"cancel", "retry"}
        return "" if elsewhere else f"a valid {op} was refused with {status} {problem}"
    if (status, problem) != (422, _INVALID):
        return f"{what} was refused with {status} {problem}"
    said = value.get("pointers", ())
    right = {*said} == {f"/{name}" for name in fields}
    return "" if right else f"{what} was refused because of {', '.join(map(str, said))}"


def _unexplained(history: History, operation: Operation) -> str:
    """Return what is wrong with a request that failed before any fault could make it fail.

    The doubts of a run cover operations without a completion: the harness did not wait for them.
    """
    completion = operation.completion
    status, problem = operation.value.get("status", 0), operation.value.get("problem")
    failed = operation.type == "info" or (operation.type == "fail" and status >= 500)
    if completion is None or not failed or completion.at >= history.view(_first_hit):
        return ""
    if not status and completion.at >= history.view(_first_answer):
        return ""
    how = f"was answered {status} {problem or ''}".rstrip() if status else "got no answer"
    return f"a {operation.invoke.op} {how}, and no fault explains it"


def _first_answer(history: History) -> float:
    """Return the second of the first answer to any request; infinity without one."""
    answered = (op for op in history.operations.values() if op.value.get("status"))
    return min((op.completion.at for op in answered if op.completion), default=math.inf)


def _first_hit(history: History) -> float:
    """Return the second of the first fault that can make a request fail; infinity without one.

    What happens to schedulers, workers, Redis or the collector does not concern a request, unless
    Postgres cancels a request that waits for a row which they keep locked.
    """
    if any(condition.name == "statement_timeout" for condition in history.conditions):
        return 0.0
    starts = (r for records in history.faults.values() for r in records if r.type == "start")
    return min((r.at for r in starts if any(map(_on_the_way, r.targets))), default=math.inf)


def _on_the_way(target: str) -> bool:
    """Return whether a process, server or edge takes part in the answer to a request."""
    actor, _, dependency = target.partition("->")
    if dependency:
        return dependency.startswith("api-") or (actor.startswith("api-") and dependency == _STORE)
    return actor.startswith("api-") or actor == _STORE


def _wrong_refusal(log: TaskLog, window: range, answer: str, state: object) -> str:
    justified = (
        state in {State.SUCCEEDED, State.FAILED} if answer == "too_late" else state != State.FAILED
    )
    if not justified:
        return f"refused because it was {state}, which does not justify it"
    if not any(log.names[k] == state for k in window):
        return f"refused because it was {state}, but it was not at that time"
    return ""


def _cancelled(log: TaskLog, count: int, answer: str) -> bool:
    """Return whether a cancel with this answer can have left this state."""
    if not count:
        return False
    cancelled = log.names[count] == State.CANCELLED
    requested = log.names[count] == State.RUNNING and bool(log.body(count)["cancel_requested"])
    return {"cancelled": cancelled, "requested": requested}.get(answer, cancelled or requested)


def _during(at: float, operation: Operation) -> bool:
    """Return whether an instant lies within an operation; an unknown one may take effect later."""
    if operation.type == "info" or operation.completion is None:
        return operation.invoke.at - SLACK_SECONDS <= at
    first, last = operation.invoke.at - SLACK_SECONDS, operation.completion.at + SLACK_SECONDS
    return first <= at <= last


def _retries(history: History) -> Iterator[Violation]:
    """Yield retries that were answered as done without an event for each of them."""
    done: defaultdict[str, list[Operation]] = defaultdict(list)
    for retry in history.of("retry"):
        if retry.type == "ok" and retry.value.get("answer") in {"retried", "done"}:
            done[str(retry.value["task_id"])].append(retry)
    for task_id, retries in done.items():
        events = [e for e in history.events.get(task_id, ()) if e.reason == Reason.RETRIED]
        for retry in retries:
            own = _own(history, events, retry)
            if own is None:
                message = "a retry was answered as done, but its log has no event of it"
                yield Violation("S24", task_id, message, halves(retry))
            else:
                events.remove(own)


def _own(history: History, events: list[Event], retry: Operation) -> Event | None:
    return next((e for e in events if _during(history.seconds(e.at), retry)), None)


def _creations(history: History) -> Iterator[Violation]:
    for task_id, submits in history.submits_by_task.items():
        task = history.tasks[task_id]
        at = history.seconds(task.created_at)
        creators = [s for s in submits if s.type == "info" or s.value.get("status") == 201]
        if not any(_during(at, submit) for submit in creators):
            message = f"created at {at:.3f} s, during no submit that says so or is unknown"
            yield Violation("S24", task_id, message, (task, *halves(*submits)))
        for submit in submits:
            if submit.value.get("status") == 201 and not _during(at, submit):
                message = f"a submit was answered 201, but the task was created at {at:.3f} s"
                yield Violation("S24", task_id, message, (task, *halves(submit)))


def _queues(history: History) -> Iterator[Violation]:
    """Yield submits that were refused because of a known queue, or answered despite an unknown."""
    known = Scenario.model_validate(history.run.scenario).known_queues
    for submit in history.of("submit"):
        if invalid_fields(submit.invoke.value):
            continue
        queue, status = submit.invoke.value.get("queue", "default"), submit.value.get("status", 0)
        refused = submit.value.get("problem") == _UNKNOWN_QUEUE
        if refused and queue in known:
            message = f"refused because of the queue {queue}, which is known"
        elif not refused and queue not in known and 0 < status < 500:
            message = f"answered {status}, but the queue {queue} is unknown"
        else:
            continue
        yield Violation("S24", _task_id(submit), message, halves(submit))


def _mismatches(history: History) -> Iterator[Violation]:
    for task_id, submits in history.submits_by_task.items():
        for refused in submits:
            if refused.value.get("problem") != _KEY_REUSED:
                continue
            message = _wrong_mismatch(history.tasks[task_id], refused, submits)
            if message:
                yield Violation("S24", task_id, message, halves(refused))


def _wrong_mismatch(task: TaskRow, refused: Operation, submits: tuple[Operation, ...]) -> str:
    named = refused.value.get("task_id")
    if named != task.task_id:
        return f"refused because of task {named}, which does not have its key"
    stored = [s for s in submits if s.type != "fail"]
    if all(same(asked(submit), asked(refused)) for submit in stored):
        return "refused because of a different request, but none differs"
    return ""
