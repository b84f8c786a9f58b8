"""Bad histories of the time that an attempt had left after its business row: S19 reports them."""

from __future__ import annotations

from dataclasses import replace

from bad_histories import BadHistories, Maker, refused
from specimen import Specimen
from testimonies import TIMEOUT_SECONDS

from chaos.checker.invariants.registry import INVARIANTS
from chaos.history.history import History
from chaos.history.records import Effect

bad = BadHistories()
USED_SECONDS = 1.5


def with_left(run: Specimen, left: float | None) -> History:
    """Return a history whose attempt wrote its row so long after its claim."""
    life = run.submit("a", effect="sql").dispatch().claim()
    run.now = round(run.now + USED_SECONDS - 0.01, 6)
    life.succeed()
    return run.edited(
        lambda r: replace(r, result=r.result | {"left": left}) if isinstance(r, Effect) else r
    )


@bad("S19", "says that its attempt had 2.0 s left after its row, instead of 1.501 s")
def _(run: Specimen) -> History:
    # Its time did not run: the answer to its claim was not late by more than a second.
    return with_left(run, TIMEOUT_SECONDS)


@bad("S19", "says that its attempt had None s left after its row")
def _(run: Specimen) -> History:
    return with_left(run, None)


@bad.each
def test_bad_time_left_violates(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)


def test_time_runs_from_the_start_of_the_handler() -> None:
    assert INVARIANTS["S19"](with_left(Specimen(), TIMEOUT_SECONDS - USED_SECONDS)) == []
    # It starts as late as the claim is answered.
    assert INVARIANTS["S19"](with_left(Specimen(), TIMEOUT_SECONDS - USED_SECONDS + 0.9)) == []
