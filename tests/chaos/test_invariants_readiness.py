"""Bad histories of readiness: S27 must report a role that was not ready without a fault."""

from __future__ import annotations

from bad_histories import BadHistories, Maker, done, refused
from specimen import Specimen

from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import PhaseStart, Record, Unready

bad = BadHistories()


def _unready(starts: int) -> Unready:
    return Unready(actor="api-1", at=31.0, starts=starts, log="ValueError: no key")


@bad("S27", "api-1 was not ready though no fault disturbed it")
def _(run: Specimen) -> History:
    done(run)
    run.records.append(_unready(0))
    return run.history()


@bad("S27", "it was started 4 times more")
def _(run: Specimen) -> History:
    run.records.append(_unready(4))
    return run.history()


@bad.each
def test_bad_history_is_refused(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)


def test_run_that_ends_at_an_unready_role_has_no_doubts() -> None:
    """What the run did not get to is no fault of the harness."""

    def only_started(record: Record) -> Record | None:
        return None if isinstance(record, PhaseStart) and record.phase == "healed" else record

    run = Specimen()
    done(run)
    assert judge(run.edited(only_started)).verdict == "unknown"
    run.records.append(_unready(0))
    judged = judge(run.edited(only_started))
    assert (judged.verdict, judged.doubts) == ("false", ())
    assert [violation.invariant for violation in judged.violations] == ["S27"]
