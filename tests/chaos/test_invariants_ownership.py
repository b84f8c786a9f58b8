"""Bad histories of who ran what: S3, S7, S8, S9 and S12 must name them."""

from __future__ import annotations

from dataclasses import replace

from bad_histories import BadHistories, Maker, on_row, refused
from specimen import Life, Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.history.history import History
from chaos.history.records import Fault, Op, Record, Run
from holdfast.model.lifecycle import Reason, State

bad = BadHistories()
SLOTS = 2


def flaky(run: Specimen, retry_seconds: float) -> History:
    """The rows say that the first attempt was to fail, and when the next one may come."""
    planned = {"failures": 1, "retry_seconds": retry_seconds}
    return run.edited(on_row(lambda t: replace(t, payload=t.payload | planned)))


def with_slots(run: Specimen) -> History:
    """Every worker has so few slots."""
    return run.edited(
        lambda r: replace(r, settings={"worker_concurrency": SLOTS}) if isinstance(r, Run) else r
    )


def told_not_found(record: Record) -> Record:
    """Whoever cancelled was told that there is no such task."""
    if isinstance(record, Op) and record.op == "cancel" and record.type == "ok":
        return replace(record, type="fail", value={"status": 404})
    return record


def killed(run: Specimen, label: str) -> None:
    """The incarnation is gone from here on."""
    evidence = {label: {"incarnation": run.worker(label)}}
    strike = Fault(type="start", fault_id="k#1", fault="kill", targets=(label,), at=run.tick())
    run.records += [strike, replace(strike, type="felt", at=run.tick(), evidence=evidence)]


def timed_out(life: Life) -> Life:
    """A scheduler takes the attempt back for its age."""
    return life.step(State.SCHEDULED, Reason.TIMED_OUT, "scheduler:scheduler-1")


@bad("S3", "after a failure with a 0.5 s retry delay")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().end(Reason.FAILED).dispatch().claim().succeed()
    return flaky(run, 0.5)


@bad("S7", "timed out, but its worker was killed")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim("worker-1")
    killed(run, "worker-1")
    timed_out(life).dispatch().claim("worker-2").succeed()
    return run.history()


@bad("S8", "was refused to its own worker")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim("worker-1").succeed().stale_finish("worker-1", 1)
    return run.history()


@bad("S8", "was refused to its own worker")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.FAILED)
    life.stale_finish("worker-1", 1).dispatch().claim().succeed()
    return run.history()


@bad("S9", "which worker-1")
def _(run: Specimen) -> History:
    # Two ran the same epoch; the second one's end came too late.
    run.submit("a").dispatch().claim("worker-1").succeed().stale_finish("worker-2", 1)
    return run.history()


@bad("S9", "owns 3 attempts but has 2 slots")
def _(run: Specimen) -> History:
    lives = [run.submit(key).dispatch().claim("worker-1") for key in ("a", "b", "c")]
    for life in lives:
        life.succeed()
    return with_slots(run)


@bad("S9", "after it had been marked dead")
def _(run: Specimen) -> History:
    # Taken back from a dead worker, given out anew, and granted to the dead again.
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.LOST)
    run.dead.clear()
    life.dispatch().claim("worker-1").end(Reason.LOST).dispatch().claim("worker-2").succeed()
    return run.history()


@bad("S9", "after it had been marked dead")
def _(run: Specimen) -> History:
    lost, other = run.submit("a").dispatch().claim("worker-1"), run.submit("b")
    lost.end(Reason.LOST).dispatch().claim("worker-2").succeed()
    run.dead.clear()
    other.dispatch().claim("worker-1").end(Reason.LOST).dispatch().claim("worker-2").succeed()
    return run.history()


@bad("S12", "a cancel after the submit was accepted did not find the task")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().succeed().cancel()
    return run.edited(told_not_found)


@bad.each
def test_a_bad_history_is_refused(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)


def test_a_retry_after_its_delay_is_in_time() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim().end(Reason.FAILED)
    run.now += 0.5
    life.dispatch().claim().succeed()
    assert INVARIANTS["S3"](flaky(run, 0.5)) == []


def test_an_attempt_that_was_lost_may_be_tried_again_at_once() -> None:
    run = Specimen()
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    assert INVARIANTS["S3"](flaky(run, 0.5)) == []


def test_a_worker_killed_after_the_time_was_over_had_let_it_time_out() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1")
    run.now += 60.0
    killed(run, "worker-1")
    timed_out(life).dispatch().claim("worker-2").succeed()
    assert INVARIANTS["S7"](run.history()) == []


def test_an_end_told_again_when_the_task_went_on_may_be_refused() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.FAILED)
    life.dispatch().claim("worker-2").stale_finish("worker-1", 1).succeed()
    assert INVARIANTS["S8"](run.history()) == []


def test_a_claim_under_way_when_its_worker_died_may_be_granted() -> None:
    run = Specimen()
    lost, late = run.submit("a").dispatch().claim("worker-1"), run.submit("b").dispatch()
    lost.end(Reason.LOST).dispatch().claim("worker-2").succeed()
    run.dead.clear()
    late.claim("worker-1").end(Reason.LOST).dispatch().claim("worker-2").succeed()
    assert INVARIANTS["S9"](run.history()) == []


def test_slots_are_taken_one_after_the_other_by_any_number() -> None:
    run = Specimen()
    for key in ("a", "b", "c"):
        run.submit(key).dispatch().claim("worker-1").succeed()
    running = [run.submit(key).dispatch().claim("worker-2") for key in ("d", "e")]
    running[0].end(Reason.LOST).dispatch().claim("worker-1").succeed()
    run.submit("f").dispatch().claim("worker-2").succeed()
    running[1].succeed()
    assert INVARIANTS["S9"](with_slots(run)) == []
