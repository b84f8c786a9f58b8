"""Bad histories of ownership: S7, S8, S9 and S12 must report them."""

from __future__ import annotations

from dataclasses import replace

from bad_histories import BadHistories, Maker, done, refused
from life import Life, instant
from specimen import Specimen, retire

from chaos.checker.invariants.registry import INVARIANTS
from chaos.history.history import History
from chaos.history.records import Fault, Op, Record, Run, Worker
from holdfast.model.lifecycle import Reason, State

bad = BadHistories()
SLOTS = 2


def with_slots(run: Specimen) -> History:
    """Set the number of slots of every worker."""
    return run.edited(
        lambda r: replace(r, settings={"worker_concurrency": SLOTS}) if isinstance(r, Run) else r
    )


def answered_not_found(record: Record) -> Record:
    """Answer a cancel with 404."""
    if isinstance(record, Op) and record.op == "cancel" and record.type == "ok":
        return replace(record, type="fail", value={"status": 404})
    return record


def killed(run: Specimen, label: str) -> None:
    """Kill the incarnation now."""
    evidence = {label: {"incarnation": run.worker(label)}}
    fault = Fault(type="start", fault_id="k#1", fault="kill", targets=(label,), at=run.tick())
    run.records += [fault, replace(fault, type="felt", at=run.tick(), evidence=evidence)]


def timed_out(life: Life) -> Life:
    """Reclaim the attempt as timed out, by a scheduler."""
    return life.step(State.SCHEDULED, Reason.TIMED_OUT, "scheduler:scheduler-1")


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


@bad("S8", "was refused to its own worker")
def _(run: Specimen) -> History:
    # The task runs again elsewhere, but that first attempt was ended by worker-1 itself.
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.FAILED)
    life.dispatch().claim("worker-2").stale_finish("worker-1", 1).succeed()
    return run.history()


@bad("S20", "attempt 1 lost, but its worker had ended by itself")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim("worker-1")
    retire(run, life)
    life.end(Reason.LOST).dispatch().claim("worker-2").succeed()
    return run.history()


@bad("S9", "which worker-1")
def _(run: Specimen) -> History:
    # Two workers ran the same epoch; the outcome of the second came too late.
    run.submit("a").dispatch().claim("worker-1").succeed().stale_finish("worker-2", 1)
    return run.history()


@bad("S9", "owns 3 attempts but has 2 slots")
def _(run: Specimen) -> History:
    lives = [run.submit(key).dispatch().claim("worker-1") for key in ("a", "b", "c")]
    for life in lives:
        life.succeed()
    return with_slots(run)


@bad("S9", "after its lease was over")
def _(run: Specimen) -> History:
    # Reclaimed from a dead worker, dispatched again, and granted to the dead worker.
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.LOST)
    run.dead.clear()
    life.dispatch().claim("worker-1").end(Reason.LOST).dispatch().claim("worker-2").succeed()
    return run.history()


@bad("S9", "after its lease was over")
def _(run: Specimen) -> History:
    lost, other = run.submit("a").dispatch().claim("worker-1"), run.submit("b")
    lost.end(Reason.LOST).dispatch().claim("worker-2").succeed()
    run.dead.clear()
    other.dispatch().claim("worker-1").end(Reason.LOST).dispatch().claim("worker-2").succeed()
    return run.history()


@bad("S9", "after its lease was over: dispatched 0.2")
def _(run: Specimen) -> History:
    # It was not yet marked dead when it claimed.
    done(run)
    over = instant(run.now)
    run.now += 0.2
    run.submit("b").dispatch().claim("worker-1").succeed()
    return run.edited(lambda r: replace(r, lease_expires_at=over) if isinstance(r, Worker) else r)


@bad("S9", "of queue bulk, claimed by worker-2")
def _(run: Specimen) -> History:
    run.plan = {"topology": {"queues": {name: ["default"] for name in ("worker-2", "worker-3")}}}
    run.submit("a", queue="bulk").dispatch().claim("worker-1").succeed()
    run.submit("b", queue="bulk").dispatch().claim("worker-2").succeed()
    return run.history()


@bad("S12", "a cancel after the submit was accepted did not find the task")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().succeed().cancel()
    return run.edited(answered_not_found)


@bad.each
def test_bad_ownership_history_violates(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)


def test_attempt_may_time_out_before_its_worker_is_killed() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1")
    run.now += 60.0
    killed(run, "worker-1")
    timed_out(life).dispatch().claim("worker-2").succeed()
    assert INVARIANTS["S7"](run.history()) == []


def test_claim_in_flight_when_its_worker_died_may_be_granted() -> None:
    run = Specimen()
    lost, late = run.submit("a").dispatch().claim("worker-1"), run.submit("b").dispatch()
    lost.end(Reason.LOST).dispatch().claim("worker-2").succeed()
    run.dead.clear()
    late.claim("worker-1").end(Reason.LOST).dispatch().claim("worker-2").succeed()
    assert INVARIANTS["S9"](run.history()) == []


def test_slots_may_be_reused_any_number_of_times() -> None:
    run = Specimen()
    for key in ("a", "b", "c"):
        run.submit(key).dispatch().claim("worker-1").succeed()
    running = [run.submit(key).dispatch().claim("worker-2") for key in ("d", "e")]
    running[0].end(Reason.LOST).dispatch().claim("worker-1").succeed()
    run.submit("f").dispatch().claim("worker-2").succeed()
    running[1].succeed()
    assert INVARIANTS["S9"](with_slots(run)) == []
