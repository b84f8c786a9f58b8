"""Compare what handlers saw with what was asked: S19. O(n).

Each handler of the workload testifies the digest of its payload, the number of its attempt and the
seconds it had, in everything that it leaves behind (``chaos.tasks.attempt``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.disturbance import disturbances
from chaos.checker.invariants.told import Told, told
from chaos.checker.invariants.violation import Violation
from chaos.checker.model import json_value
from chaos.history.history import History
from chaos.history.records import ArenaName, Effect, Event, Record
from holdfast.model.lifecycle import Reason

# The testimony is rounded to milliseconds.
_ROUNDING_SECONDS = 0.001
# A timer of the event loop may end this much early.
_TIMER_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class _Testimony:
    """What one attempt left behind, in which record, and under which epoch it ran."""

    what: str
    seen: Any
    epoch: int
    record: Record


@invariant("S19", "what handlers saw and returned with requests, ledger and log")
def run_as_asked(history: History) -> list[Violation]:
    """Every attempt runs with the payload and time asked for, and the ledger has its own result.

    Ledger row, business row, call to the sink and planned exception all say what their attempt saw.
    At its start it had the whole timeout asked for, however late its claim was answered (in real
    time: but for as long as the attempt lasted). From then on its time runs: after its business row
    an attempt has no more left of it than its own steps and the database's clock say.
    """
    found: list[Violation] = []
    for task in told(history).values():
        if task.declared is None:
            continue
        claims = {event.epoch: event for event in task.events if event.reason == Reason.CLAIMED}
        ends = {attempt.claim.epoch: attempt.end for attempt in task.attempts()}
        for each in _testimonies(history, task):
            claim, end = claims.get(each.epoch), ends.get(each.epoch)
            for wrong in _wrong(history, task, each, claim, end):
                evidence = (each.record, *([claim] if claim else []), task.row)
                message = f"{each.what} {wrong}"
                found.append(Violation("S19", task.row.task_id, message, evidence))
        for effect in history.effects.get(task.row.task_id, ()):
            for wrong in (*_result(task, effect), *_left(history, task, effect, claims)):
                message = f"the ledger row {wrong}"
                found.append(Violation("S19", task.row.task_id, message, (effect, task.row)))
    return found


def _testimonies(history: History, task: Told) -> Iterator[_Testimony]:
    task_id = task.row.task_id
    for effect in history.effects.get(task_id, ()):
        if task.step(effect.attempt).get("whole"):
            continue  # its result is the value that it was told to return
        result = effect.result if isinstance(effect.result, dict) else {}
        yield _Testimony("the ledger row", result.get("seen"), effect.epoch - 1, effect)
    for row in history.sql_effects.get(task_id, ()):
        yield _Testimony("a business row", row.seen, row.epoch, row)
    for call in history.sink_calls.get(task_id, ()):
        yield _Testimony("a call to the sink", call.seen, call.epoch, call)
    for attempt in task.attempts():
        if attempt.seen is not None:
            yield _Testimony("a planned exception", attempt.seen, attempt.claim.epoch, attempt.end)


def _wrong(
    history: History, task: Told, testimony: _Testimony, claim: Event | None, end: Event | None
) -> Iterator[str]:
    seen = testimony.seen
    if claim is None:
        yield f"is of epoch {testimony.epoch}, under which nobody claimed the task"
    elif not isinstance(seen, dict) or not seen.keys() >= {"payload", "attempt", "seconds"}:
        yield f"says {seen!r} instead of what its attempt saw"
    else:
        if seen["payload"] != json_value.digest(task.stored.payload):
            yield f"is of another payload than that of the task (digest {seen['payload']})"
        if seen["attempt"] != claim.attempt:
            yield f"is of attempt {seen['attempt']}, but attempt {claim.attempt} was claimed"
        least, most = _seconds(history, task, claim, end)
        if not least <= float(seen["seconds"]) <= most:
            yield (
                f"says that its attempt had {seen['seconds']} s at its start, instead of "
                f"{least:.3f} to {most:.3f} s"
            )


def _seconds(history: History, task: Told, claim: Event, end: Event | None) -> tuple[float, float]:
    """Return the least and the most seconds that an attempt may have had at its start."""
    whole = task.stored.timeout_seconds
    spent = _ROUNDING_SECONDS
    if history.run.arena is not ArenaName.SIMULATION:  # a busy or frozen process begins slowly
        if end is None or end.actor != claim.actor:
            return 0.0, whole + _ROUNDING_SECONDS  # how long it lasted is not known
        spent += history.seconds(end.at) - history.seconds(claim.at)
    return max(0.0, whole - spent), whole + _ROUNDING_SECONDS


def _left(
    history: History, task: Told, effect: Effect, claims: Mapping[int, Event]
) -> Iterator[str]:
    """Compare the time left after the business row with the instants of the database."""
    claim = claims.get(effect.epoch - 1)
    for row in history.sql_effects.get(task.row.task_id, ()):
        if claim is None or row.epoch != claim.epoch or task.step(effect.attempt).get("whole"):
            continue
        left = effect.result.get("left") if isinstance(effect.result, dict) else None
        claimed = history.seconds(claim.at)
        since_claim = history.seconds(row.at) - claimed
        # Its time began after the claim, by as much as the answer to it was late.
        used = since_claim - disturbances(history).claim_seconds(claimed)
        used = max(used, float(task.stored.payload.get("seconds", 0.0)) / 2 - _TIMER_SECONDS)
        most = max(0.0, task.stored.timeout_seconds - used) + _ROUNDING_SECONDS
        if left is None or left > most:
            yield f"says that its attempt had {left} s left after its row, instead of {most:.3f} s"


def _result(task: Told, effect: Effect) -> Iterator[str]:
    result = effect.result if isinstance(effect.result, dict) else {}
    number = task.stored.payload.get("number")
    step = task.step(effect.attempt)
    if step.get("whole"):
        if not json_value.equal(effect.result, step["value"]):
            yield f"has the result {effect.result!r}, but its handler returned {step['value']!r}"
        return
    if result.get("number") != number:
        yield f"has the result of task number {result.get('number')}, not of number {number}"
    if ("value" in result) != ("value" in step):
        yield f"has a result with {sorted(result)}, but its handler was told {dict(step)}"
    elif not json_value.equal(result.get("value"), step.get("value")):
        yield f"has the value {result['value']!r}, but its handler returned {step['value']!r}"
