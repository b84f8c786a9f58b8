"""Bad histories of liveness: L1, L2 and L4 must report them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bad_histories import BadHistories, Maker, done, on_row, refused
from life import ALLOWED_SECONDS, instant
from specimen import Specimen

from chaos.checker.bounds import CONTAINER_START_SECONDS
from chaos.checker.invariants.liveness import recovery_seconds
from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import ArenaName, PhaseStart, Run

bad = BadHistories()


@bad("L1", "never ended")
def _(run: Specimen) -> History:
    run.submit("a").dispatch()
    return run.history()


@bad("L1", "ended at")
def _(run: Specimen) -> History:
    done(run)
    late = instant(run.now + ALLOWED_SECONDS + 0.001)
    return run.edited(on_row(lambda t: replace(t, finished_at=late)))


@bad("L1", "never ended")
def _(run: Specimen) -> History:
    # Due after the heal, and the history goes on for more than T after that.
    run.submit("a", later=0.5)
    return run.history()


@bad("L2", "no task ended for 6.0")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim()
    run.now += 6.0
    life.succeed()
    return run.history()


@bad("L2", "no task ended for 6.0")
def _(run: Specimen) -> History:
    # The interval before the heal counts too.
    done(run)
    run.submit("b")
    run.now += 6.0
    return run.history()


@bad("L4", "started never")
def _(run: Specimen) -> History:
    run.submit("a").dispatch()
    return run.history()


@bad("L4", "started 1.52 s late")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch()
    run.now += 1.49
    life.claim().succeed()
    return run.history()


@bad.each
def test_bad(law: str, message: str, make: Maker) -> None:
    run = Specimen(plan={"expect": {"eventually": {"L1": "computed", "L2": 5, "L4": 1.25}}})
    refused(make(run), law, message)


def test_end_at_the_deadline_is_in_time() -> None:
    run = Specimen()
    done(run)
    last = instant(run.now + ALLOWED_SECONDS)
    assert INVARIANTS["L1"](run.edited(on_row(lambda t: replace(t, finished_at=last)))) == []


def test_history_that_ends_before_the_deadline_is_undecided() -> None:
    run = Specimen()
    run.submit("a").dispatch()
    early = run.now + ALLOWED_SECONDS - 0.001
    judgement = judge(
        run.edited(
            lambda r: (
                replace(r, at=early) if isinstance(r, PhaseStart) and r.phase == "drained" else r
            )
        )
    )
    assert judgement.verdict == "unknown"
    assert "1 tasks were open" in judgement.doubts[0]


def test_recovery_covers_tasks_due_by_the_heal() -> None:
    run = Specimen()
    done(run)
    healed = run.now
    late = instant(healed + 2.5)
    assert recovery_seconds(run.edited(on_row(lambda t: replace(t, finished_at=late)))) == 2.5
    assert recovery_seconds(run.history()) == 0.0
    run.submit("b", later=5.0)
    assert recovery_seconds(run.history()) == 0.0
    run.submit("c")
    assert recovery_seconds(run.history()) is None


def test_idle_time_is_not_a_stall() -> None:
    run = Specimen(plan={"expect": {"eventually": {"L2": 5}}})
    run.now = 20.0
    done(run)
    run.submit("later", later=30.0)
    run.now = 45.0
    done(run, "b")
    assert INVARIANTS["L2"](run.history()) == []


def test_progress_limit_in_containers_includes_their_start() -> None:
    def in_containers(seconds: float) -> History:
        run = Specimen(plan={"expect": {"eventually": {"L2": 5}}})
        life = run.submit("a")
        run.now += seconds
        life.dispatch().claim().succeed()
        return run.edited(
            lambda r: replace(r, arena=ArenaName.COMPOSE) if isinstance(r, Run) else r
        )

    assert INVARIANTS["L2"](in_containers(6.0)) == []
    assert INVARIANTS["L2"](in_containers(5.0 + CONTAINER_START_SECONDS + 1.0))


def test_task_cancelled_before_its_start_is_on_time() -> None:
    run = Specimen(plan={"expect": {"eventually": {"L4": 1.25}}})
    run.submit("a", later=3.0).cancel()
    assert INVARIANTS["L4"](run.history()) == []


def test_task_open_at_the_deadline_is_late() -> None:
    run = Specimen()
    run.submit("a").dispatch()
    deadline = run.now + ALLOWED_SECONDS
    judgement = judge(
        run.edited(
            lambda r: (
                replace(r, at=deadline) if isinstance(r, PhaseStart) and r.phase == "drained" else r
            )
        )
    )
    assert judgement.verdict == "false"


@pytest.mark.parametrize("phase", ["faults", "healed"])
def test_progress_needs_both_phases(phase: str) -> None:
    run = Specimen(plan={"expect": {"eventually": {"L2": 5}}})
    life = run.submit("a")
    run.now += 6.0
    life.dispatch().claim().succeed()
    history = run.edited(lambda r: None if isinstance(r, PhaseStart) and r.phase == phase else r)
    assert INVARIANTS["L2"](run.history())
    assert INVARIANTS["L2"](history) == []


def test_longest_allowed_stall_is_no_violation() -> None:
    def stalls(allowed: float) -> bool:
        run = Specimen(plan={"expect": {"eventually": {"L2": allowed, "L4": allowed}}})
        run.now = 0.98
        life = run.submit("a")
        run.now = 2.96
        life.dispatch().claim().succeed()
        return bool(INVARIANTS["L2"](run.history()))

    # Due at 1.00, ended at 2.99.
    assert stalls(1.98)
    assert not stalls(2.0)
