"""Bad histories of answers, listings and refusals: S22, S23 and S24 must report them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bad_histories import BadHistories, Change, Maker, done, refused
from life import Life, instant
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.history.history import History
from chaos.history.records import Op, PhaseStart, Record
from holdfast.model.lifecycle import Reason

bad = BadHistories()
Value = dict[str, Any]


def answered(op: str, change: Callable[[Value], Value]) -> Change:
    """Change the value of every ok answer to this kind of operation."""

    def changed(record: Record) -> Record:
        if not isinstance(record, Op) or (record.op, record.type) != (op, "ok"):
            return record
        return replace(record, value=change(record.value))

    return changed


def with_task(**fields: object) -> Callable[[Value], Value]:
    """Change fields of the task in an answer."""
    return lambda value: value | {"task": value["task"] | fields}


def answer(run: Specimen, op: str, life: Life, kind: str, value: Value) -> None:
    """Add an operation with this completion."""
    run.complete(run.op(op, {"task_id": life.task_id}), kind, value)  # type: ignore[arg-type]


@bad("S22", "state = RUNNING")
def _(run: Specimen) -> History:
    # The state before the last event, as soon as nobody can take that for a late commit.
    life = run.submit("a").dispatch().claim()
    life.read().end(Reason.FAILED).dispatch().read()
    return run.edited(answered("get", with_task(state="RUNNING")))


@bad("S22", "(3 to 3 events)")
def _(run: Specimen) -> History:
    # An operation that had completed showed a later state.
    life = run.submit("a").dispatch()
    before = {"state": life.state, "task": life.body()}
    life.claim().read()
    answer(run, "get", life, "ok", before)
    found = [record for record in run.all_records() if isinstance(record, Op)]
    assert found[-1].value == before
    return run.history()


@bad("S22", "attempts")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim().end(Reason.FAILED).read()
    attempts = [life.body()["attempts"][0] | {"outcome": "timed out"}]
    return run.edited(answered("get", with_task(attempts=attempts)))


@bad("S22", "result = {'key': 'b'}")
def _(run: Specimen) -> History:
    done(run).read()
    return run.edited(answered("get", with_task(result={"key": "b"})))


@bad("S22", "finished_at")
def _(run: Specimen) -> History:
    done(run).read()
    return run.edited(answered("get", with_task(finished_at=instant(0.5))))


@bad("S22", "due_at")
def _(run: Specimen) -> History:
    run.submit("a", later=1.0).read()
    return run.edited(answered("get", with_task(due_at=instant(9.0))))


@bad("S22", "cancel_requested")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().cancel()
    return run.edited(answered("cancel", with_task(cancel_requested=False)))


@bad("S22", "losses = 0")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().read()
    return run.edited(answered("get", with_task(losses=0)))


@bad("S22", "priority = 9")
def _(run: Specimen) -> History:
    run.submit("a")
    return run.edited(answered("submit", with_task(priority=9)))


@bad("S22", "existence")
def _(run: Specimen) -> History:
    answer(run, "get", run.submit("a").dispatch(), "ok", {"state": None})
    return run.history()


@bad("S22", "existence")
def _(run: Specimen) -> History:
    answer(run, "retry", run.submit("a").dispatch(), "fail", {"status": 404})
    return run.history()


@bad("S22", "that is not stored")
def _(run: Specimen) -> History:
    done(run)
    run.walk(10)
    task = run.lives[0].body(whole=False) | {"id": "00000000-0000-7000-8000-0000000000ff"}
    return run.edited(answered("list", lambda value: value | {"tasks": [task]}))


@bad("S22", "events")
def _(run: Specimen) -> History:
    done(run).read_events()
    return run.edited(answered("events", lambda v: v | {"events": v["events"][::-1]}))


@bad("S22", "events")
def _(run: Specimen) -> History:
    done(run).read_events()
    return run.edited(answered("events", lambda v: v | {"events": v["events"][1:]}))


@bad("S22", "(4 to 4 events)")
def _(run: Specimen) -> History:
    # At rest the last event is certain too, though nothing follows it.
    life = run.submit("a").dispatch().claim()
    before = {"state": life.state, "task": life.body()}
    life.succeed()
    run.records.append(PhaseStart(phase="quiet", at=run.tick()))
    answer(run, "get", life, "ok", before)
    return run.history()


def listed(run: Specimen, limit: int = 10, **filters: str) -> None:
    for key in "abcd":
        done(run, key).read()  # else the commit of its success is not certain
    run.walk(limit, **filters)


def pages(change: Callable[[list[Value]], list[Value]]) -> Change:
    return answered("list", lambda value: value | {"tasks": change(value["tasks"])})


@bad("S23", "not newest first")
def _(run: Specimen) -> History:
    listed(run)
    return run.edited(pages(lambda tasks: tasks[::-1]))


@bad("S23", "or twice")
def _(run: Specimen) -> History:
    listed(run)
    return run.edited(pages(lambda tasks: [*tasks, tasks[-1]]))


@bad("S23", "or twice")
def _(run: Specimen) -> History:
    # The second page begins with the end of the first.
    listed(run, 2)
    first = run.lives[2].body(whole=False)
    return run.edited(
        pages(lambda tasks: tasks if tasks[0]["id"] > first["id"] else [first, tasks[0]])
    )


@bad("S23", "does not list it")
def _(run: Specimen) -> History:
    listed(run)
    return run.edited(pages(lambda tasks: tasks[:-1]))


@bad("S23", "{'state': 'SUCCEEDED'} does not list it")
def _(run: Specimen) -> History:
    listed(run, state="SUCCEEDED")
    return run.edited(pages(lambda tasks: [tasks[0], *tasks[2:]]))


@bad("S23", "{'queue': 'other'} lists it")
def _(run: Specimen) -> History:
    listed(run)
    return run.edited(
        lambda r: (
            replace(r, value={"query": {"queue": "other"}})
            if isinstance(r, Op) and (r.op, r.type) == ("list", "invoke")
            else r
        )
    )


@bad("S23", "a page of at most 10 has 4 tasks")
def _(run: Specimen) -> History:
    listed(run)
    return run.edited(answered("list", lambda value: value | {"next_cursor": "more"}))


@bad("S24", "does not justify it")
def _(run: Specimen) -> History:
    answer(run, "retry", done(run), "ok", {"answer": "refused", "state": "FAILED"})
    return run.history()


@bad("S24", "but it was not at that time")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().republish()
    answer(run, "retry", life, "ok", {"answer": "refused", "state": "SCHEDULED"})
    return run.history()


@bad("S24", "refused because it was SUCCEEDED, but")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim()
    answer(run, "cancel", life, "ok", {"answer": "too_late", "state": "SUCCEEDED"})
    life.succeed()
    return run.history()


@bad("S24", "no event of it")
def _(run: Specimen) -> History:
    life = run.submit("a", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    answer(run, "retry", life, "ok", {"answer": "retried", "task": life.body()})
    return run.history()


@bad("S24", "answered cancelled, but was not done")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim().cancel()
    life.end(Reason.FAILED)
    return run.edited(answered("cancel", lambda value: value | {"answer": "cancelled"}))


@bad("S24", "answered 500 internal-error")
def _(run: Specimen) -> History:
    answer(run, "get", done(run), "info", {"status": 500, "problem": "internal-error"})
    return run.history()


@bad("S24", "without a problem type")
def _(run: Specimen) -> History:
    answer(run, "cancel", done(run), "info", {"status": 502})
    return run.history()


@bad("S24", "a valid list was refused with 400")
def _(run: Specimen) -> History:
    refusal = {"status": 400, "problem": "invalid-cursor"}
    run.complete(run.op("list", {"query": {"cursor": "x"}}), "fail", refusal)
    return run.history()


@bad("S24", "a valid submit was refused with 401 unauthorized")
def _(run: Specimen) -> History:
    life = done(run)
    run.lose_replies()
    refusal = {"status": 401, "problem": "unauthorized"}
    run.complete(run.op("submit", life.asked), "fail", refusal)
    return run.history()


@bad("S24", "a valid retry was refused with 405 method-not-allowed")
def _(run: Specimen) -> History:
    answer(run, "retry", done(run), "fail", {"status": 405, "problem": "method-not-allowed"})
    return run.history()


@bad("S24", "a submit was answered 503 overloaded, and no fault explains it")
def _(run: Specimen) -> History:
    # The only request of the run; too few accepted submits alone would make it unknown.
    asked: Value = {"key": "a", "name": "chaos_ledger", "payload": {}, "run_at": None}
    run.complete(run.op("submit", asked), "fail", {"status": 503, "problem": "overloaded"})
    return run.history()


@bad("S24", "a submit got no answer, and no fault explains it")
def _(run: Specimen) -> History:
    asked: Value = {"key": "a", "name": "chaos_ledger", "payload": {}, "run_at": None}
    run.complete(run.op("submit", asked), "info", {"status": 0, "error": "timeout"})
    run.submit("b")
    run.lose_replies()  # later
    return run.history()


def test_one_request_of_many_may_go_unanswered() -> None:
    run = Specimen()
    answer(run, "cancel", done(run), "info", {"status": 0, "error": "timeout"})
    assert INVARIANTS["S24"](run.history()) == []


@pytest.mark.parametrize(
    ("target", "explains"),
    [
        *((target, True) for target in ("postgres", "api-2", "client->api-1", "api-1->postgres")),
        *((target, False) for target in ("redis", "worker-1", "api-1->redis", "api-1->collector")),
        ("worker-1->postgres", False),
    ],
)
def test_only_faults_on_the_way_of_a_request_explain_that_it_fails(
    target: str, *, explains: bool
) -> None:
    run = Specimen()
    life = run.submit("a")
    run.inject("fault#1", "any", target)
    answer(run, "cancel", life, "info", {"status": 503, "problem": "outcome-unknown"})
    violations = INVARIANTS["S24"](run.history())
    assert bool(violations) is not explains


@bad("S24", "during no submit")
def _(run: Specimen) -> History:
    # Nothing was done, said the only submit that was there; the resend found the task stored.
    run.submit("a").submit_again()
    refusal = {"status": 503, "problem": "unavailable"}
    return run.edited(
        lambda r: (
            replace(r, type="fail", value=refusal)
            if isinstance(r, Op) and r.value.get("status") == 201
            else r
        )
    )


@bad("S24", "answered 201, but")
def _(run: Specimen) -> History:
    run.submit("a").submit_again()
    return run.edited(answered("submit", lambda value: value | {"status": 201}))


@bad("S24", "but none differs")
def _(run: Specimen) -> History:
    life = run.submit("a")
    refusal = {"status": 422, "problem": "idempotency-key-reused", "task_id": life.task_id}
    run.complete(run.op("submit", life.asked), "fail", refusal)
    return run.history()


@bad("S24", "which does not have its key")
def _(run: Specimen) -> History:
    run.submit("a").submit_again(other=True)
    return run.edited(
        lambda r: (
            replace(r, value=r.value | {"task_id": "other"})
            if isinstance(r, Op) and r.value.get("status") == 422
            else r
        )
    )


@bad.each
def test_bad_history(law: str, message: str, make: Maker) -> None:
    refused(make(Specimen()), law, message)
