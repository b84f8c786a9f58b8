"""Bad histories of dispatch: S25 and S26 must report them, and pass near misses."""

from __future__ import annotations

from dataclasses import replace

from bad_histories import BadHistories, Maker, refused
from life import Life
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.model.configuration import Configuration
from chaos.checker.queue_bounds import next_start, queued_start
from chaos.history.history import History
from chaos.history.records import Fault, Run
from chaos.scenario.scenario import Scenario
from chaos.scenario.vocabulary import UNCONDITIONAL
from holdfast.model.lifecycle import Reason

bad = BadHistories()
# The default, since a specimen names no other.
STATEMENT_SECONDS = Configuration().statement_timeout_seconds
LONG = 2 * STATEMENT_SECONDS


def pair(run: Specimen, *, queue: str = "default", priority: int = 5) -> tuple[Life, Life]:
    """Submit a task of priority 5 and, after it, another one; let both wait."""
    first = run.submit("first", priority=5)
    second = run.submit("second", queue=queue, priority=priority)
    run.now += LONG
    return first, second


def overtaken(run: Specimen, first: Life, second: Life) -> History:
    """Dispatch the second task, and much later the first."""
    second.dispatch().claim().succeed()
    run.now += LONG
    first.dispatch().claim().succeed()
    return run.history()


@bad("S25", "priority 5, which had waited in queue default for 20.0")
def _(run: Specimen) -> History:
    return overtaken(run, *pair(run, priority=4))


@bad("S25", "priority 5, which had waited in queue default for 20.0")
def _(run: Specimen) -> History:
    # Of equal priority, but due later.
    return overtaken(run, *pair(run))


@bad("S25", "priority 9, which had waited")
def _(run: Specimen) -> History:
    # Due later, but of higher priority; the best one counts.
    run.submit("other", priority=1).dispatch().claim().succeed()
    second, first = run.submit("second", priority=8), run.submit("first", priority=9, later=0.5)
    run.now += LONG + 0.5
    return overtaken(run, first, second)


@bad("S25", "for 20.")
def _(run: Specimen) -> History:
    # A task waits again after a failure; its priority is the same.
    first = run.submit("first", priority=5).dispatch().claim().end(Reason.FAILED)
    run.now = first.due + LONG
    return overtaken(run, first, run.submit("second", priority=4))


@bad("S25", "priority 5")
def _(run: Specimen) -> History:
    # The other scheduler dispatches, too, but nothing that outranks the waiting task.
    first, second = pair(run, priority=4)
    run.submit("third", priority=3).dispatch("scheduler-2").claim().succeed()
    return overtaken(run, first, second)


@bad("S25", "priority 5")
def _(run: Specimen) -> History:
    # Its own scheduler dispatched a task that outranks the waiting one.
    first, second = pair(run, priority=4)
    run.submit("third", priority=9).dispatch("scheduler-1").claim().succeed()
    return overtaken(run, first, second)


def crowded() -> Specimen:
    """Return an empty run with room for two tasks per queue and four slots."""
    settings = {"queue_depth_max": 2, "worker_concurrency": 4, "poll_seconds": 0.2}
    return Specimen(
        plan={
            "topology": {
                "workers": 2,
                "settings": settings,
                "queues": {"worker-1": ["default", "bulk"], "worker-2": ["default", "Bulk"]},
            },
            "workload": {"tasks": 1, "seconds": 5, "ok_min": 1, "differences": {"hangs": 0}},
            "expect": {"always": [*UNCONDITIONAL, "S26"]},
        }
    )


SCENARIO = Scenario.model_validate(
    next(r for r in crowded().all_records() if isinstance(r, Run)).scenario
)
PAUSE = next_start(SCENARIO).seconds
DELAY = queued_start(SCENARIO, "bulk").seconds


def starved(run: Specimen, seconds: float, *, queue: str = "bulk") -> History:
    """Let a due task wait while tasks of another queue run."""
    life = run.submit("starved", queue=queue)
    since = run.now
    for number in range(4):
        run.submit(f"busy {number}").dispatch().claim().succeed()
        run.now += seconds / 5
    run.now = since + seconds
    life.dispatch().claim().succeed()
    return run.history()


@bad("S26", "was due in queue bulk, of which no task started")
def _(_: Specimen) -> History:
    return starved(crowded(), PAUSE + 0.1)


@bad("S26", "was due in queue bulk, of which no task started")
def _(_: Specimen) -> History:
    # A task started in between, but none after it.
    run = crowded()
    life = run.submit("starved", queue="bulk")
    run.submit("other", queue="bulk").dispatch().claim().succeed()
    run.now += PAUSE + 0.1
    life.dispatch().claim().succeed()
    return run.history()


@bad("S26", "in queue bulk after its dispatch")
def _(_: Specimen) -> History:
    # Tasks of its queue start all the time, but not this one.
    run = crowded()
    life = run.submit("delayed", queue="bulk").dispatch()
    dispatched = run.now
    number = 0
    while run.now < dispatched + DELAY:
        number += 1
        run.submit(f"other {number}", queue="bulk").dispatch().claim().succeed()
        run.now += PAUSE / 2
    life.claim().succeed()
    return run.history()


@bad.each
def test_bad_dispatch_history_violates(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)


def kept(history: History, law: str) -> bool:
    return INVARIANTS[law](history) == []


def test_tasks_of_another_queue_may_be_dispatched_first() -> None:
    run = Specimen()
    assert kept(overtaken(run, *pair(run, queue="bulk", priority=4)), "S25")


def test_higher_priority_overtakes_what_is_due_earlier() -> None:
    run = Specimen()
    assert kept(overtaken(run, *pair(run, priority=6)), "S25")


def test_task_may_be_overtaken_while_a_statement_may_hold_its_lock() -> None:
    run = Specimen()
    first, second = pair(run, priority=4)
    second.dispatch().claim().succeed()
    run.now += STATEMENT_SECONDS - 0.1
    first.dispatch().claim().succeed()
    assert kept(run.history(), "S25")
    run = Specimen()
    first = run.submit("first", priority=5)
    run.now += STATEMENT_SECONDS - 0.1
    assert kept(overtaken(run, first, run.submit("second", priority=4)), "S25")


def test_batch_of_another_scheduler_may_hold_the_lock() -> None:
    run = Specimen()
    first, second = pair(run, priority=4)
    run.submit("third", priority=9).dispatch("scheduler-2").claim().succeed()
    assert kept(overtaken(run, first, second), "S25")


def test_refused_retry_may_hold_the_lock() -> None:
    run = Specimen()
    first, second = pair(run, priority=4)
    first.retry()
    assert kept(overtaken(run, first, second), "S25")


def test_hint_of_an_earlier_attempt_may_hold_the_lock() -> None:
    run = Specimen()
    first = run.submit("first", priority=5).dispatch().republish().claim().end(Reason.FAILED)
    run.now = first.due + LONG
    assert kept(overtaken(run, first, run.submit("second", priority=4)), "S25")


def test_order_is_not_judged_while_faults_disturb() -> None:
    run = Specimen()
    fault = Fault(type="start", fault_id="f#1", fault="pause", targets=("postgres",), at=run.tick())
    first, second = pair(run, priority=4)
    overtaken(run, first, second)
    run.records += [fault, replace(fault, type="end", at=run.tick())]
    assert kept(run.history(), "S25")


def test_queue_may_pause_for_its_bound() -> None:
    assert kept(starved(crowded(), PAUSE - 0.1), "S26")
    # Nothing is due: there is nothing to start.
    run = crowded()
    run.submit("a", queue="bulk").dispatch().claim().succeed()
    run.submit("b", queue="bulk", later=2 * PAUSE).dispatch().claim().succeed()
    assert kept(run.history(), "S26")


def test_fault_of_its_only_worker_exempts_a_queue() -> None:
    for target, exempt in {"worker-1": True, "worker-2->redis": False, "redis": True}.items():
        run = crowded()
        fault = Fault(type="start", fault_id="f#1", fault="pause", targets=(target,), at=run.tick())
        run.records += [fault, replace(fault, type="felt", at=run.tick())]
        history = starved(run, PAUSE + 0.1)
        assert kept(history, "S26") is exempt


def test_queue_bounds_grow_with_what_is_waited_for() -> None:
    """The bound of a queue depends on its own workers and its own room, on nothing else."""
    document, more = SCENARIO.document, {"queue_depth_max": 20, "worker_concurrency": 3}
    topology = document["topology"]
    deeper = Scenario.model_validate(
        document | {"topology": topology | {"settings": topology["settings"] | more}}
    )
    assert next_start(deeper).seconds == PAUSE
    assert queued_start(deeper, "bulk").seconds > DELAY
    # Two workers read `default`, so it has twice as many slots.
    assert queued_start(SCENARIO, "default").seconds < DELAY
