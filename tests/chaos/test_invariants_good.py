"""Good histories: every law must let them pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from specimen import Life, Specimen

from chaos.checker.invariants.registry import INVARIANTS, table
from chaos.checker.invariants.violation import Violation
from chaos.checker.verdict import judge
from chaos.scenario import scenario
from chaos.scenario.vocabulary import LIVENESS, SAFETY, UNCONDITIONAL
from holdfast.model.lifecycle import Reason, State


def done(run: Specimen, key: str, **options: object) -> Life:
    """A task that went the straight way."""
    return run.submit(key, **options).dispatch().claim().succeed()  # type: ignore[arg-type]


GOOD: dict[str, Callable[[Specimen], object]] = {}


def good(make: Callable[[Specimen], object]) -> Callable[[Specimen], object]:
    GOOD[make.__name__] = make
    return make


@good
def nothing_at_all(run: Specimen) -> None:
    pass


@good
def straight(run: Specimen) -> None:
    for effect in ("ledger", "sql", "external"):
        done(run, effect, effect=effect).read()


@good
def due_exactly_now(run: Specimen) -> None:
    life = run.submit("a", later=1.0).dispatch()
    # run_at is counted from the instant before the invoke; the claim comes at that very one.
    run.now = 2.0 - 0.01
    life.claim().succeed()


@good
def lost_and_done_by_another(run: Specimen) -> None:
    life = run.submit("a", effect="external").dispatch().claim("worker-1").call_out()
    life.end(Reason.LOST).dispatch().claim("worker-2").succeed().stale_finish("worker-1", 1)


@good
def republished_failed_handed_back(run: Specimen) -> None:
    life = run.submit("a").dispatch().republish().claim().end(Reason.FAILED).dispatch()
    life.claim("worker-2").end(Reason.HANDED_BACK).dispatch().claim().succeed()


@good
def poison(run: Specimen) -> None:
    life = run.submit("a", poison=True)
    for _ in range(3):
        life.dispatch().claim().end(Reason.LOST)
    assert life.state is State.FAILED


@good
def dead_letter_retried(run: Specimen) -> None:
    life = run.submit("a", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    assert life.state is State.FAILED
    life.cancel().retry().dispatch().claim().succeed()


@good
def timed_out_by_the_scheduler(run: Specimen) -> None:
    life = run.submit("a").dispatch().claim()
    life.owner, owner = "scheduler:scheduler-2", life.owner
    life.end(Reason.TIMED_OUT)
    life.owner = owner
    life.dispatch().claim().succeed()


@good
def cancelled_in_each_state(run: Specimen) -> None:
    run.submit("scheduled").cancel().cancel()
    run.submit("queued").dispatch().cancel()
    run.submit("running, then failed").dispatch().claim().cancel().end(Reason.FAILED)
    run.submit("running, then lost").dispatch().claim().cancel().cancel().end(Reason.LOST)
    run.submit("running, but succeeds").dispatch().claim().cancel().succeed()
    done(run, "too late").cancel()
    # The call went out before; nothing can take it back, and the ledger stays empty.
    external = run.submit("external", effect="external").dispatch().claim().call_out()
    external.cancel().end(Reason.DISCARDED)


@good
def unknown_submit_that_was_stored(run: Specimen) -> None:
    run.submit("a", answer="info").dispatch().claim().succeed()


@good
def unknown_submit_that_was_not(run: Specimen) -> None:
    run.op("submit", {"key": "a", "name": "chaos_ledger", "payload": {}, "run_at": None})


@good
def unknown_cancel_that_came_through(run: Specimen) -> None:
    life = run.submit("a")
    run.complete(run.op("cancel", {"task_id": life.task_id}), "info", {"error": "timeout"})
    life.step(State.CANCELLED, Reason.CANCELLED, "api:api-1")


@good
def repeats_and_mismatches(run: Specimen) -> None:
    done(run, "a").submit_again().submit_again(other=True).read()


@good
def absent_before_it_was_submitted(run: Specimen) -> None:
    invoke = run.op("get", {"task_id": "00000000-0000-7000-8000-000000000001"})
    run.complete(invoke, "ok", {"state": None})
    assert done(run, "a").task_id == invoke.value["task_id"]


@good
def absent_and_nobody_said_otherwise(run: Specimen) -> None:
    unknown = run.submit("a", answer="info")
    run.complete(run.op("cancel", {"task_id": unknown.task_id}), "fail", {"status": 404})
    run.complete(run.op("get", {"task_id": unknown.task_id}), "info", {"state": "QUEUED"})
    run.complete(run.op("get", {"task_id": unknown.task_id}), "ok", {"state": None})
    unknown.dispatch().claim().succeed().read()


@good
def handed_back_then_failed_within_its_limit(run: Specimen) -> None:
    life = run.submit("a", max_attempts=2).dispatch().claim().end(Reason.HANDED_BACK)
    life.dispatch().claim().end(Reason.FAILED).dispatch().claim().end(Reason.FAILED)
    assert life.state is State.FAILED


def broken(run: Specimen, laws: Iterable[str]) -> dict[str, list[Violation]]:
    history = run.history()
    return {law: found for law in laws if (found := INVARIANTS[law](history))}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_good(make: Callable[[Specimen], object]) -> None:
    run = Specimen(plan={"expect": {"eventually": {"L1": "computed", "L2": 5, "L4": 5}}})
    make(run)
    assert broken(run, [*UNCONDITIONAL, *LIVENESS]) == {}


def test_the_dead_letter_may_hold_poison_and_nothing_else() -> None:
    run = Specimen()
    poison(run)
    # One that is cancelled before it is dead, or was never let out, is in neither set.
    run.submit("cancelled", poison=True).cancel()
    run.submit("running", poison=True).dispatch().claim().cancel().end(Reason.LOST)
    # Its neighbours are lost with it, fail, time out, are handed back: they end all the same.
    life = run.submit("neighbour").dispatch().claim().end(Reason.LOST)
    life.dispatch().claim().end(Reason.FAILED).dispatch().claim().end(Reason.TIMED_OUT)
    life.dispatch().claim().end(Reason.HANDED_BACK).dispatch().claim().succeed()
    run.submit("cancelled neighbour").dispatch().claim().cancel().end(Reason.LOST)
    assert [life.state for life in run.lives].count(State.FAILED) == 1
    assert broken(run, [*UNCONDITIONAL, "S15"]) == {}


def test_poison_that_has_not_ended_yet_is_the_affair_of_liveness() -> None:
    run = Specimen()
    run.submit("a", poison=True).dispatch().claim().end(Reason.LOST).dispatch()
    assert set(broken(run, [*UNCONDITIONAL, "S15", "L1"])) == {"L1"}


def test_attempts_that_were_given_back_failed_or_stopped_are_not_wasted() -> None:
    run = Specimen()
    run.submit("a").dispatch().republish().claim().end(Reason.HANDED_BACK).dispatch().claim()
    run.lives[0].end(Reason.FAILED).dispatch().claim().succeed().stale_finish("worker-1", 1)
    run.submit("cancelled").dispatch().claim().cancel().end(Reason.DISCARDED)
    run.submit("given back").dispatch().claim().cancel().end(Reason.HANDED_BACK)
    run.submit("dead letter", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    assert broken(run, [*UNCONDITIONAL, "S16"]) == {}


def test_every_invariant_of_the_vocabulary_is_declared() -> None:
    assert list(INVARIANTS) == [*SAFETY, *LIVENESS]
    assert all(name == each.name and each.sentence for name, each in INVARIANTS.items())


def test_readme_shows_the_table_of_invariants() -> None:
    readme = Path(scenario.__file__).parent / "README.md"
    assert table() in readme.read_text(encoding="utf-8"), (
        "chaos/README.md: paste the output of chaos.checker.invariants.registry.table()"
    )


def test_stale_writes_are_no_violation_but_a_witness() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.LOST)
    life.dispatch().claim("worker-2").stale_finish("worker-1", 1).succeed()
    judgement = judge(run.history())
    assert judgement.verdict == "true"
    assert judgement.meters.stale_writes_refused == 1
