"""Bad histories of submits with an invalid field: S24 must report what is not refused so."""

from __future__ import annotations

from typing import Any, Literal

from bad_histories import BadHistories, Maker, done, refused
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.verdict import judge
from chaos.history.history import History

bad = BadHistories()


def invalid(run: Specimen, kind: Literal["ok", "fail"], **said: Any) -> History:
    """Return a run in which a submit with an invalid priority got this answer."""
    life = done(run)
    asked = life.asked | {"key": "b", "priority": 10}
    run.complete(run.op("submit", asked), kind, said)
    return run.history()


REFUSED: dict[str, Any] = {"status": 422, "problem": "invalid-request", "pointers": ["/priority"]}


def test_refusal_of_an_invalid_submit_is_right() -> None:
    history = invalid(Specimen(), "fail", **REFUSED)
    assert INVARIANTS["S24"](history) == []
    assert judge(history).verdict == "true"


@bad("S24", "a submit with an invalid priority was refused with 400 malformed-json")
def _(run: Specimen) -> History:
    return invalid(run, "fail", **REFUSED | {"status": 400, "problem": "malformed-json"})


@bad("S24", "a submit with an invalid priority was refused because of /tasks/0/priority")
def _(run: Specimen) -> History:
    return invalid(run, "fail", **REFUSED | {"pointers": ["/tasks/0/priority"]})


@bad("S24", "a submit with an invalid priority was refused because of ")
def _(run: Specimen) -> History:
    return invalid(run, "fail", **REFUSED | {"pointers": []})


@bad("S24", "a valid submit was refused with 422 invalid-request")
def _(run: Specimen) -> History:
    life = done(run)
    run.complete(run.op("submit", life.asked | {"key": "b"}), "fail", REFUSED)
    return run.history()


def test_invalid_submit_that_is_accepted_is_a_violation() -> None:
    run = Specimen()
    body = done(run).body()
    history = invalid(run, "ok", status=201, task_id=body["id"], task=body)
    found = [violation.message for violation in INVARIANTS["S24"](history)]
    assert "a submit with an invalid priority was accepted" in found


@bad.each
def test_bad_history(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)
