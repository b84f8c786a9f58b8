"""Bad histories of an overload: S17 and L5 must report them, and pass near misses."""

from __future__ import annotations

from dataclasses import replace

from bad_histories import BadHistories, Maker, refused
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.history.history import History
from chaos.history.records import PhaseStart
from chaos.scenario.vocabulary import UNCONDITIONAL

bad = BadHistories()
SCHEDULERS, DEPTH = 2, 3


def crowd(queued: int) -> Specimen:
    """Return a history with ``tasks`` QUEUED at once, after another one that was claimed."""
    run = Specimen(
        plan={
            "topology": {"schedulers": SCHEDULERS, "settings": {"queue_depth_max": DEPTH}},
            "expect": {"always": [*UNCONDITIONAL, "S17"]},
        }
    )
    run.submit("claimed").dispatch().republish().claim().succeed()
    lives = [run.submit(f"task-{number}").dispatch() for number in range(queued)]
    for life in lives:
        life.claim().succeed()
    return run


@bad("S17", f"{SCHEDULERS * DEPTH + 1} tasks were QUEUED at once, {SCHEDULERS * DEPTH} allowed")
def _(_: Specimen) -> History:
    return crowd(SCHEDULERS * DEPTH + 1).history()


def backlog(seconds_each: float, *, tasks: int = 20) -> History:
    """Return a history whose tasks end every second, and every ``seconds_each`` after the heal."""
    run = Specimen(plan={"expect": {"eventually": {"L5": 0.9}}})
    lives = [run.submit(f"task-{number}").dispatch() for number in range(2 * tasks)]
    for life in lives[:tasks]:
        run.now = float(int(run.now) + 1)
        life.claim().succeed()
    healed = run.now
    for number, life in enumerate(lives[tasks:], 1):
        life.claim()
        run.now = healed + number * seconds_each
        life.succeed()
    return run.edited(
        lambda r: replace(r, at=healed) if isinstance(r, PhaseStart) and r.phase == "healed" else r
    )


@bad("L5", "(90% required)")
def _(_: Specimen) -> History:
    return backlog(1.2)


@bad.each
def test_bad_overload_history_violates(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)


def test_each_scheduler_may_fill_the_queue_to_its_bound() -> None:
    assert INVARIANTS["S17"](crowd(SCHEDULERS * DEPTH).history()) == []


def test_backlog_drained_at_the_earlier_rate_keeps_capacity() -> None:
    assert INVARIANTS["L5"](backlog(1.0)) == []
    assert INVARIANTS["L5"](backlog(1.05)) == []


def test_capacity_without_a_backlog_is_not_judged() -> None:
    assert INVARIANTS["L5"](backlog(5.0, tasks=1)) == []
