"""Check what is counted of attempts, and the limits: S7. O(n)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.told import Told, told
from chaos.checker.invariants.violation import Violation
from chaos.checker.model.life import Ending
from chaos.history.history import History
from chaos.history.records import Event, TaskRow
from holdfast.model.lifecycle import Reason


@invariant("S7", "counters of log and row with the limits asked for")
def attempts_counted(history: History) -> list[Violation]:
    """Attempts, losses and releases are counted exactly, and the limits asked for are kept.

    ``attempt`` grows by 1 in each claim and nowhere else, and the row's counters equal those of its
    log. By the limits that were asked for, declared or configured, each end of an attempt leads to
    the state that the reference model names: no task is dead-lettered before its limit, none
    is run beyond it. An attempt whose worker was killed is lost, whatever its timeout.
    """
    found = list(_timed_out_though_killed(history))
    for task_id, events in history.events.items():
        attempt = 0
        for event in events:
            due = attempt + (event.reason == Reason.CLAIMED)
            if event.attempt != due:
                message = f"{event.reason} has attempt {event.attempt}, not {due}"
                found.append(Violation("S7", task_id, message, (event,)))
            attempt = event.attempt
        task = history.tasks.get(task_id)
        if task is not None:
            found += _counters(task, events)
    for each in told(history).values():
        found += _limits(each)
    return found


def _counters(task: TaskRow, events: tuple[Event, ...]) -> Iterator[Violation]:
    counted = {
        "attempt": sum(event.reason == Reason.CLAIMED for event in events),
        "losses": sum(event.reason == Reason.LOST for event in events),
        "handed_back": sum(event.reason == Reason.RELEASED for event in events),
    }
    for name, count in counted.items():
        stored = getattr(task, name)
        if stored != count:
            message = f"the row has {name} = {stored}, its log {count}"
            yield Violation("S7", task.task_id, message, (task,))


def _limits(task: Told) -> Iterator[Violation]:
    for attempt in task.attempts():
        due = attempt.life.state
        if attempt.end.to_state != due:
            life = attempt.life
            message = (
                f"an attempt that {attempt.kind} led to {attempt.end.to_state}, not to {due}: "
                f"{life.failures} of {life.max_attempts} attempts failed, "
                f"{life.losses} of {life.max_losses} were lost"
            )
            yield Violation("S7", task.row.task_id, message, (attempt.end, task.row))


def _timed_out_though_killed(history: History) -> Iterator[Violation]:
    killed = _killed(history)
    for task in told(history).values():
        for attempt in task.attempts():
            claim, end = attempt.claim, attempt.end
            if attempt.kind is not Ending.TIMED_OUT or claim.actor not in killed:
                continue
            early = history.seconds(claim.at) + task.stored.timeout_seconds - killed[claim.actor]
            if attempt.by_scheduler and early > 0:
                message = f"timed out, but its worker was killed {early:.2f} s before"
                yield Violation("S7", task.row.task_id, message, (claim, end))


def _killed(history: History) -> dict[str, float]:
    """Return the arena second of the SIGKILL of each killed incarnation, by actor name."""
    found: dict[str, float] = {}
    for records in history.faults.values():
        start = next((record for record in records if record.type == "start"), None)
        if start is None or start.fault != "kill":
            continue
        for evidence in itertools.chain.from_iterable(each.evidence.values() for each in records):
            if isinstance(evidence, dict) and (incarnation := evidence.get("incarnation")):
                found[f"worker:{incarnation}"] = start.at
    return found
