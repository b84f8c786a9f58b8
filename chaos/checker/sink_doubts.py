"""Check the record of the sink against itself, and against what handlers were answered."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checker.invariants.told import told
from chaos.checker.recorded_operations import some
from chaos.history.history import History
from chaos.tasks.declarations import names_of


def sink_doubts(history: History) -> Iterator[str]:
    """Yield what the sink recorded wrongly.

    It applies the first call of each key and no other. A handler that called it returns what it
    was answered, so the ledger knows of every repeat whose task succeeded.
    """
    wrong = [
        f"{key}, call {number}"
        for key, calls in history.sink_calls.items()
        for number, call in enumerate(calls, start=1)
        if call.applied != (number == 1)
    ]
    if wrong:
        yield f"the sink applied other calls than the first of each key: {some(wrong)}"
    missing = [
        f"{task_id} was {'applied' if applied else 'a repeat'}"
        for task_id, epoch, applied in _answered(history)
        if (epoch, applied)
        not in {(c.epoch, c.applied) for c in history.sink_calls.get(task_id, ())}
    ]
    missing += [
        f"{task_id} was called before attempt {attempt} failed"
        for task_id, epoch, attempt in _called(history)
        if epoch not in {call.epoch for call in history.sink_calls.get(task_id, ())}
    ]
    if missing:
        yield f"the sink has no record of calls that it answered: {some(missing)}"


def _called(history: History) -> Iterator[tuple[str, int, int]]:
    """Yield the attempts that failed as planned after their call: task, epoch, attempt.

    Each that succeeds later repeats it, so no workload with such tasks leaves repeats to chance.
    """
    external = set(names_of("external"))
    for task in told(history).values():
        for attempt in task.attempts() if task.row.name in external else ():
            do = task.step(attempt.number).get("do")
            late = do == "fail_late" and attempt.seen is not None
            if late or (do == "unstorable" and attempt.error.get("type") == "Unstorable"):
                yield task.row.task_id, attempt.claim.epoch, attempt.number


def _answered(history: History) -> Iterator[tuple[str, int, bool]]:
    """Yield the calls that ledger rows testify: task, epoch of the attempt, whether applied."""
    for task_id, effects in history.effects.items():
        for effect in effects:
            result = effect.result if isinstance(effect.result, dict) else {}
            if isinstance(result.get("applied"), bool):
                yield task_id, effect.epoch - 1, result["applied"]
