"""Good histories: every invariant must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from good_histories import GOOD, poison
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.invariants.violation import Violation
from chaos.checker.verdict import judge
from chaos.mutants.law_table import law_table
from chaos.scenario import scenario
from chaos.scenario.vocabulary import LIVENESS, SAFETY, UNCONDITIONAL
from holdfast.model.lifecycle import Reason, State


def broken(run: Specimen, laws: Iterable[str]) -> dict[str, list[Violation]]:
    history = run.history()
    return {law: found for law in laws if (found := INVARIANTS[law](history))}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_good(make: Callable[[Specimen], object]) -> None:
    run = Specimen(plan={"expect": {"eventually": {"L1": "computed", "L2": 5, "L4": 5}}})
    make(run)
    assert broken(run, [*UNCONDITIONAL, *LIVENESS]) == {}


def test_only_poison_may_be_dead_lettered() -> None:
    run = Specimen()
    poison(run)
    # A poison task that is cancelled before its last loss, or never ran, is in neither set.
    run.submit("cancelled", poison=True).cancel()
    run.submit("running", poison=True).dispatch().claim().cancel().end(Reason.LOST)
    # Its neighbours are lost with it, fail, time out, are handed back: they end all the same.
    life = run.submit("neighbour").dispatch().claim().end(Reason.LOST)
    life.dispatch().claim().end(Reason.FAILED).dispatch().claim().end(Reason.TIMED_OUT)
    life.dispatch().claim().end(Reason.RELEASED).dispatch().claim().succeed()
    run.submit("cancelled neighbour").dispatch().claim().cancel().end(Reason.LOST)
    assert [life.state for life in run.lives].count(State.FAILED) == 1
    assert broken(run, [*UNCONDITIONAL, "S15"]) == {}


def test_open_poison_task_is_left_to_liveness() -> None:
    run = Specimen()
    run.submit("a", poison=True).dispatch().claim().end(Reason.LOST).dispatch()
    assert set(broken(run, [*UNCONDITIONAL, "S15", "L1"])) == {"L1"}


def test_released_failed_or_cancelled_attempts_are_not_wasted() -> None:
    run = Specimen()
    run.submit("a").dispatch().republish().claim().end(Reason.RELEASED).dispatch().claim()
    run.lives[0].end(Reason.FAILED).dispatch().claim().succeed()
    run.submit("cancelled").dispatch().claim().cancel().end(Reason.DISCARDED)
    run.submit("given back").dispatch().claim().cancel().end(Reason.RELEASED)
    run.submit("dead letter", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    assert broken(run, [*UNCONDITIONAL, "S16"]) == {}


def test_every_invariant_of_the_vocabulary_is_declared() -> None:
    assert list(INVARIANTS) == [*SAFETY, *LIVENESS]
    assert all(
        name == each.name and each.sentence and each.compares for name, each in INVARIANTS.items()
    )


def test_readme_shows_the_table_of_invariants() -> None:
    readme = Path(scenario.__file__).parents[1] / "README.md"
    assert law_table() in readme.read_text(encoding="utf-8"), (
        "chaos/README.md: paste the output of chaos.mutants.law_table.law_table()"
    )


def test_stale_writes_are_an_occurrence_and_no_violation() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.LOST)
    life.dispatch().claim("worker-2").stale_finish("worker-1", 1).succeed()
    judgement = judge(run.history())
    assert judgement.verdict == "true"
    assert judgement.meters.stale_writes_refused == 1
