"""Bad histories by the reference model: S18 to S21 must report them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bad_histories import BadHistories, Change, Maker, done, on_event, on_row, refused, under
from life import Life, instant
from specimen import Specimen
from testimonies import TIMEOUT_SECONDS, seen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.history.history import History
from chaos.history.records import Effect, Fault, Op, SinkCall, SqlEffect
from holdfast.model.lifecycle import Reason, State

bad = BadHistories()


def on_result(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Change the results in the ledger."""
    return lambda r: replace(r, result=change(r.result)) if isinstance(r, Effect) else r


def on_detail(error: dict[str, Any]) -> Change:
    """Change what failures say about themselves."""
    return on_event(Reason.FAILED, lambda e: replace(e, detail={"error": error}))


def on_seen(kind: type[SqlEffect | SinkCall], **fields: Any) -> Change:
    """Change what handlers saw, as business rows or calls to the sink say."""
    return lambda r: replace(r, seen=(r.seen or {}) | fields) if isinstance(r, kind) else r


def answered(run: Specimen, life: Life, **wrong: Any) -> History:
    """Return the history with a repeated submit whose answer shows the task, but for ``wrong``."""
    invoke = run.op("submit", life.asked)
    task = life.body(whole=False) | wrong
    run.complete(invoke, "ok", {"status": 200, "task_id": life.task_id, "task": task})
    return run.history()


STORED_WRONGLY: dict[str, Any] = {
    "name": "chaos_ledger_brief",
    "payload": {"number": 0, "key": "a", "steps": [], "more": None},
    "queue": "other",
    "priority": 1,
    "run_at": instant(1.5),
    "timeout_seconds": 2.5,
    "max_attempts": 6,
    "max_losses": 4,
}


@pytest.mark.parametrize(("name", "value"), STORED_WRONGLY.items())
def test_a_field_that_is_stored_wrongly_is_reported(name: str, value: Any) -> None:
    run = Specimen()
    done(run)
    wrong = run.edited(on_row(lambda t: replace(t, **{name: value})))
    refused(wrong, "S18", f"stored with {name} = {value!r}")


@pytest.mark.parametrize("name", [name for name in STORED_WRONGLY if name != "max_losses"])
def test_a_field_that_is_answered_wrongly_is_reported(name: str) -> None:
    run = Specimen()
    life = done(run)
    wrong = answered(run, life, **{name: STORED_WRONGLY[name]})
    refused(wrong, "S18", f"answered with {name} = {STORED_WRONGLY[name]!r}")


def test_a_right_answer_is_accepted() -> None:
    run = Specimen()
    life = done(run)
    assert [law for law, check in INVARIANTS.items() if check(answered(run, life))] == []


@bad("S18", "stored with payload")
def _(run: Specimen) -> History:
    # The payloads of two tasks of one batch are exchanged.
    lives = [run.submit(key).cancel() for key in ("a", "b")]
    payloads = {lives[n].task_id: lives[1 - n].asked["payload"] for n in (0, 1)}
    return run.edited(on_row(lambda t: replace(t, payload=payloads[t.task_id])))


@bad("S18", "stored with payload")
def _(run: Specimen) -> History:
    # A truth value becomes a number.
    life = run.submit("a").cancel()
    life.asked["payload"] |= {"flag": True}
    return run.edited(on_row(lambda t: replace(t, payload=t.payload | {"flag": 1})))


@bad("S18", "stored with run_at")
def _(run: Specimen) -> History:
    run.submit("a", later=1.0).dispatch().cancel()
    return run.edited(on_row(lambda t: replace(t, run_at=instant(9.0))))


@bad("S18", "stored with max_attempts = 5 instead of 6")
def _(run: Specimen) -> History:
    # The row has the configured limit, though the handler declares one.
    life = run.submit("a").cancel()
    del life.asked["max_attempts"]
    return run.history()


@bad("S18", "stored with idempotency_key = 'A' instead of 'a'")
def _(run: Specimen) -> History:
    # Found by the id in the answer.
    life = done(run)
    life.asked["key"] = "A"
    return run.edited(
        lambda r: (
            replace(r, value=r.value | {"key": "a"})
            if isinstance(r, Op) and r.op == "submit" and r.type == "invoke"
            else r
        )
    )


@bad("S18", "stored with max_attempts = 9 instead of 2")
def _(run: Specimen) -> History:
    # A retry by hand allows one more attempt, not all of them.
    life = run.submit("a", max_attempts=1).dispatch().claim().end(Reason.FAILED).retry()
    life.dispatch().claim().succeed()
    return run.edited(on_row(lambda t: replace(t, max_attempts=9)))


@bad("S19", "the ledger row is of another payload than that of the task")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_result(lambda r: r | {"seen": r["seen"] | {"payload": "0" * 16}}))


@bad("S19", "the ledger row is of attempt 2, but attempt 1 was claimed")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_result(lambda r: r | {"seen": r["seen"] | {"attempt": 2}}))


@bad("S19", "the ledger row has the result of task number 1, not of number 0")
def _(run: Specimen) -> History:
    # The results of two tasks of one batch are exchanged.
    done(run)
    done(run, "b")
    return run.edited(on_result(lambda r: r | {"number": 1 - r["number"]}))


@bad("S19", "the ledger row says None instead of what its attempt saw")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(lambda r: replace(r, result=None) if isinstance(r, Effect) else r)


@bad("S19", "the ledger row has the value 1, but its handler returned True")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().tell({"do": "return", "value": True}).succeed()
    return run.edited(on_result(lambda r: r | {"value": 1}))


@bad("S19", "has a result with ['left', 'number', 'seen'], but its handler was told")
def _(run: Specimen) -> History:
    # Null is a value, too.
    run.submit("a").dispatch().claim().tell({"do": "return", "value": None}).succeed()
    return run.edited(on_result(lambda r: {name: r[name] for name in r if name != "value"}))


@bad("S19", "a business row is of attempt 1, but attempt 2 was claimed")
def _(run: Specimen) -> History:
    run.submit("a", effect="sql").dispatch().claim().end(Reason.FAILED).dispatch().claim().succeed()
    return run.edited(on_seen(SqlEffect, attempt=1))


@bad("S19", "a call to the sink is of another payload")
def _(run: Specimen) -> History:
    done(run, effect="external")
    return run.edited(on_seen(SinkCall, payload="0" * 16))


@bad("S19", "a call to the sink is of epoch 3, under which nobody claimed the task")
def _(run: Specimen) -> History:
    done(run, effect="external")
    return run.edited(lambda r: replace(r, epoch=3) if isinstance(r, SinkCall) else r)


@bad("S19", "a planned exception is of attempt 7, but attempt 1 was claimed")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim().end(Reason.FAILED).dispatch().claim().succeed()
    other = json.dumps(seen(life.asked["payload"], 7))
    return run.edited(on_detail({"type": "Retry", "message": f"planned: retry seen {other}"}))


@bad("S19", "says that its attempt had 300.0 s at its start, instead of")
def _(run: Specimen) -> History:
    # It ran with the configured timeout instead of the one that was asked for.
    done(run)
    return run.edited(on_result(lambda r: r | {"seen": r["seen"] | {"seconds": 300.0}}))


@bad("S19", "says that its attempt had 0.5 s at its start, instead of")
def _(run: Specimen) -> History:
    # Nothing disturbed the run, and yet most of the time had passed.
    done(run)
    return run.edited(on_result(lambda r: r | {"seen": r["seen"] | {"seconds": 0.5}}))


@bad("S20", "attempt 1 succeeded, but it was told to fail")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().tell({"do": "fail"}).succeed()
    return run.history()


@bad("S20", "attempt 1 failed, but it was told to succeed")
def _(run: Specimen) -> History:
    error = {"type": "Unstorable", "message": "the result cannot be stored"}
    run.submit("a").dispatch().claim().end(Reason.FAILED, told={}, detail={"error": error})
    return run.history()


@bad("S20", "attempt 1 failed, but it was told to fail, but raised Retry")
def _(run: Specimen) -> History:
    error = {"type": "Retry", "message": "the handler asked for a retry"}
    run.submit("a").dispatch().claim().end(
        Reason.FAILED, told={"do": "fail"}, detail={"error": error}
    )
    return run.history()


@bad("S20", "attempt 1 failed, but it was told to discard")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim().end(Reason.FAILED, told={"do": "discard"})
    life.dispatch().claim().succeed()
    return run.history()


@bad("S20", "attempt 1 succeeded, but its handler runs for 0.3 s, it took 0.010 s")
def _(run: Specimen) -> History:
    run.submit("a").asked["payload"]["seconds"] = 0.3
    run.lives[0].dispatch().claim().succeed()
    return run.history()


@bad("S20", "attempt 1 timed_out, but 2 s were asked for, it had")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim().tell({"do": "hang"})
    life.step(State.SCHEDULED, Reason.TIMED_OUT, life.owner)
    return run.history()


@bad("S20", "attempt 1 timed_out, but 2 s were asked for, it had 2.010 s")
def _(run: Specimen) -> History:
    # A scheduler waits for the grace, too.
    life = run.submit("a").dispatch().claim().tell({"do": "hang"})
    run.now += TIMEOUT_SECONDS
    life.step(State.SCHEDULED, Reason.TIMED_OUT, "scheduler:scheduler-1")
    return run.history()


@bad("S20", "attempt 1 lost, but its worker was not dead")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim().end(Reason.LOST)
    run.dead[life.claimed_by[1]] = instant(run.now + 1.0)
    life.dispatch().claim().succeed()
    return run.history()


@bad("S20", "attempt 1 handed_back, but its worker had not been asked to stop")
def _(run: Specimen) -> History:
    # It goes on claiming.
    stopped = {"error": {"type": "Stopped", "message": "shutting down"}}
    life = run.submit("a").dispatch().claim().end(Reason.RELEASED, detail=stopped)
    life.dispatch().claim().succeed()
    return run.history()


@bad("S20", "attempt 1 handed_back, but its worker has a handler for it")
def _(run: Specimen) -> History:
    unknown = {"error": {"type": "UnknownName", "message": "this worker has no handler for it"}}
    run.submit("a").dispatch().claim().end(Reason.RELEASED, detail=unknown).cancel()
    return run.history()


@bad("S20", "attempt 1 cancelled, but nobody had asked to cancel it")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim()
    life.step(State.CANCELLED, Reason.CANCELLED, life.owner)
    # S4 wants somebody to have asked at any time.
    run.complete(run.op("cancel", {"task_id": life.task_id}), "info", {"error": "timeout"})
    return run.history()


@bad("S21", "dispatched 0.390 s before it was due after failed")
def _(run: Specimen) -> History:
    # Earlier than Retry(after=...) asks for, by more than the tolerance of 0.1 s.
    life = run.submit("a").dispatch().claim().end(Reason.FAILED, told={"do": "retry", "after": 0.5})
    life.due = 0.0
    life.dispatch().claim().succeed()
    return run.history()


@bad("S21", "before it was due after failed")
def _(run: Specimen) -> History:
    # The third failure has the delay of the first: jitter takes at most half of 0.8 s.
    life = run.submit("a")
    for _ in range(3):
        life.dispatch().claim().end(Reason.FAILED, told={"do": "fail"})
    life.due -= 0.6
    life.dispatch().claim().succeed()
    return run.history()


@bad("S21", "the row has due_at")
def _(run: Specimen) -> History:
    # Losses raise the back-off of the first failure.
    life = run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().end(Reason.LOST)
    life.dispatch().claim().end(Reason.FAILED, told={"do": "fail"})
    life.due += 0.2
    life.dispatch().claim().succeed()
    return run.history()


@bad("S21", "the row has due_at")
def _(run: Specimen) -> History:
    # The task waits after a loss.
    life = run.submit("a").dispatch().claim().end(Reason.LOST)
    life.due += 0.2
    life.dispatch().claim().succeed()
    return run.history()


@bad("S21", "the row has due_at")
def _(run: Specimen) -> History:
    # The end of a successful attempt changes no due time.
    life = done(run)
    life.due = run.now
    return run.history()


@bad("S21", "the row has due_at")
def _(run: Specimen) -> History:
    life = run.submit("a", later=1.0).dispatch().claim().succeed()
    life.due += 0.01
    return run.history()


@bad("S21", "before it was due after submitted")
def _(run: Specimen) -> History:
    life = run.submit("a", later=1.0)
    due, life.due = life.due, 0.0
    life.dispatch()
    life.due = due
    run.now = 3.0
    life.claim().succeed()
    return run.history()


@bad("S21", "the answer to a submit has due_at")
def _(run: Specimen) -> History:
    return answered(run, done(run), due_at=instant(9.0))


def test_a_retry_by_hand_shows_either_due_time_under_its_epoch() -> None:
    run = Specimen()
    life = run.submit("a", max_attempts=2).dispatch().claim().end(Reason.FAILED)
    life.dispatch().claim().end(Reason.FAILED)
    before = life.due
    life.retry()
    for due in (before, life.due):
        assert INVARIANTS["S21"](answered(run, life, due_at=instant(due))) == []
    assert INVARIANTS["S21"](answered(run, life, due_at=instant(before - 0.5)))


def test_a_release_for_an_unknown_name_has_the_configured_delay() -> None:
    run = Specimen(plan={"topology": {"knows": {"worker-1": ["sql"]}}})
    unknown = {"error": {"type": "UnknownName", "message": "this worker has no handler for it"}}
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.RELEASED, detail=unknown)
    life.due += 5.0
    life.dispatch().claim("worker-2").succeed()
    assert [law for law in ("S20", "S21") if INVARIANTS[law](run.history())] == []
    life.due -= 1.0
    assert INVARIANTS["S21"](run.history())


def test_an_attempt_has_its_whole_time_also_while_a_fault_is_in_force() -> None:
    run = Specimen()
    fault = Fault(type="start", fault_id="x#1", fault="latency", targets=("a",), at=run.tick())
    run.records += [fault, replace(fault, type="end", at=run.tick())]
    done(run)
    late = run.edited(on_result(lambda r: r | {"seen": r["seen"] | {"seconds": 0.5}}))
    assert INVARIANTS["S19"](late)


@bad.each
def test_bad(law: str, message: str, make: Maker) -> None:
    run = under(law)
    refused(make(run), law, message)
