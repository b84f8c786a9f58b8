"""Bad histories of clients and effects: S1, S2, S4, S5, S10, S11, S12, S19 must report them."""

from __future__ import annotations

from dataclasses import replace

from bad_histories import BadHistories, Maker, copy_of, done, refused, without
from life import instant
from specimen import Specimen

from chaos.history.history import History
from chaos.history.records import Effect, Op, SinkCall, SqlEffect, TaskRow
from holdfast.model.lifecycle import Reason, State

bad = BadHistories()


@bad("S1", "2 rows in the ledger")
def _(run: Specimen) -> History:
    done(run)
    return run.history(copy_of(Effect, run))


@bad("S1", "has the key other instead")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(lambda r: replace(r, effect_key="other") if isinstance(r, Effect) else r)


@bad("S1", "in the ledger for")
def _(run: Specimen) -> History:
    first = done(run)
    done(run, "b")
    return run.edited(
        lambda r: replace(r, effect_key=first.task_id) if isinstance(r, Effect) else r
    )


@bad("S1", "2 business rows")
def _(run: Specimen) -> History:
    done(run, effect="sql")
    return run.history(copy_of(SqlEffect, run))


@bad("S1", "applied 2 calls")
def _(run: Specimen) -> History:
    run.submit("a", effect="external").dispatch().claim().call_out().succeed()
    return run.edited(lambda r: replace(r, applied=True) if isinstance(r, SinkCall) else r)


@bad("S1", "applied 2 calls")
def _(run: Specimen) -> History:
    # One key per attempt: each call is applied once, but the effect of the task twice.
    run.submit("a", effect="external").dispatch().claim().call_out().succeed()
    keys = iter(("attempt-1", "attempt-2"))
    return run.edited(
        lambda r: replace(r, applied=True, key=next(keys)) if isinstance(r, SinkCall) else r
    )


@bad("S1", "key attempt-1 instead of the task's id")
def _(run: Specimen) -> History:
    done(run, effect="external")
    return run.edited(lambda r: replace(r, key="attempt-1") if isinstance(r, SinkCall) else r)


@bad("S2", "was refused at submit")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(
        lambda r: replace(r, type="fail") if isinstance(r, Op) and r.type == "ok" else r
    )


@bad("S2", "was never submitted")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(without(Op))


@bad("S2", "effect of a task that does not exist")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(without(TaskRow))


@bad("S2", "sink of a task that does not exist")
def _(run: Specimen) -> History:
    call = SinkCall(at=1.0, key="x", task_id="x", epoch=1, applied=True)
    return run.history(call)


@bad("S4", "CANCELLED, but its effect was applied")
def _(run: Specimen) -> History:
    life = run.submit("a").cancel()
    effect = Effect(
        effect_key=life.task_id, task_id=life.task_id, epoch=0, attempt=0, at=instant(2)
    )
    return run.history(effect)


@bad("S4", "CANCELLED, but its effect was applied")
def _(run: Specimen) -> History:
    life = run.submit("a", effect="sql").dispatch().claim().cancel().end(Reason.LOST)
    return run.history(SqlEffect(task_id=life.task_id, epoch=1, attempt=1, at=instant(2)))


@bad("S4", "answered cancelled, but the task is SUCCEEDED")
def _(run: Specimen) -> History:
    life = run.submit("a")
    run.complete(run.op("cancel", {"task_id": life.task_id}), "ok", {"answer": "cancelled"})
    life.dispatch().claim().succeed()
    return run.history()


@bad("S4", "answered requested, but the task is FAILED")
def _(run: Specimen) -> History:
    life = run.submit("a", max_attempts=1).dispatch().claim()
    run.complete(run.op("cancel", {"task_id": life.task_id}), "ok", {"answer": "requested"})
    life.end(Reason.FAILED)
    return run.history()


@bad("S4", "answered too_late, but the task is CANCELLED")
def _(run: Specimen) -> History:
    run.submit("a").cancel()
    return run.edited(
        lambda r: (
            replace(r, value={"answer": "too_late"})
            if isinstance(r, Op) and "answer" in r.value
            else r
        ),
    )


@bad("S4", "no cancel of it was accepted")
def _(run: Specimen) -> History:
    run.submit("a").step(State.CANCELLED, Reason.CANCELLED, "api:api-1")
    return run.history()


@bad("S4", "cancel was answered None")
def _(run: Specimen) -> History:
    run.complete(run.op("cancel", {"task_id": done(run).task_id}), "ok", {})
    return run.history()


@bad("S5", "its task is missing")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(without(TaskRow))


@bad("S5", "its task is missing")
def _(run: Specimen) -> History:
    # The key is stored, but under another id than the answered one.
    done(run)
    return run.edited(
        lambda r: (
            replace(r, value=r.value | {"task_id": "another"})
            if isinstance(r, Op) and r.type == "ok"
            else r
        ),
    )


@bad("S10", "is stored on 2 tasks")
def _(run: Specimen) -> History:
    done(run)
    done(run)
    return run.history()


@bad("S10", "key a of desk was answered with a task that is stored under key a of shop")
def _(run: Specimen) -> History:
    run.api_key = "shop"
    done(run).submit_again(key_namespace="desk")
    return run.history()


@bad("S10", "key a of shop was also answered with the id")
def _(run: Specimen) -> History:
    # The namespace is the secret, so that a rotation makes a second task.
    for run.api_key in ("old", "next"):
        done(run)
    return run.edited(
        lambda r: (
            replace(r, value=r.value | {"key_namespace": "shop"})
            if isinstance(r, Op) and r.op == "submit" and r.type == "invoke"
            else r
        )
    )


@bad("S10", "also answered with the id another")
def _(run: Specimen) -> History:
    done(run).submit_again()
    return run.edited(
        lambda r: (
            replace(r, value=r.value | {"task_id": "another"})
            if isinstance(r, Op) and r.value.get("status") == 200
            else r
        )
    )


@bad("S10", "different request under key a was accepted")
def _(run: Specimen) -> History:
    life = done(run).submit_again(other=True)
    answer = {"status": 200, "task_id": life.task_id}
    return run.edited(
        lambda r: (
            replace(r, type="ok", value=answer)
            if isinstance(r, Op) and r.value.get("status") == 422
            else r
        )
    )


@bad("S10", "the same request under key a was refused")
def _(run: Specimen) -> History:
    done(run).submit_again()
    return run.edited(
        lambda r: (
            replace(r, type="fail", value={"status": 422})
            if isinstance(r, Op) and r.value.get("status") == 200
            else r
        )
    )


@bad("S10", "a different request under key a was accepted")
def _(run: Specimen) -> History:
    # The repeat asks for another queue.
    done(run).submit_again(queue="other")
    return run.history()


@bad("S10", "the same request under key a was refused as a mismatch")
def _(run: Specimen) -> History:
    # The repeat names the default.
    done(run).submit_again(other=True)
    return run.edited(
        lambda r: (
            replace(r, value=run.lives[0].asked | {"queue": "default"})
            if isinstance(r, Op) and r.type == "invoke"
            else r
        )
    )


@bad("S11", "SUCCEEDED with 0 ledger rows")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(without(Effect))


@bad("S11", "SUCCEEDED with 2 ledger rows")
def _(run: Specimen) -> History:
    done(run)
    return run.history(copy_of(Effect, run))


@bad("S11", "SUCCEEDED with 0 business rows; the kind of its effect is sql")
def _(run: Specimen) -> History:
    done(run, effect="sql")
    return run.edited(without(SqlEffect))


@bad("S11", "SUCCEEDED with 0 applied calls; the kind of its effect is external")
def _(run: Specimen) -> History:
    done(run, effect="external")
    return run.edited(without(SinkCall))


@bad("S11", "SUCCEEDED with 0 applied calls; the kind of its effect is external")
def _(run: Specimen) -> History:
    # Every call was suppressed, although none was applied before.
    done(run, effect="external")
    return run.edited(lambda r: replace(r, applied=False) if isinstance(r, SinkCall) else r)


@bad("S11", "FAILED with 1 ledger rows")
def _(run: Specimen) -> History:
    life = run.submit("a", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    row = Effect(effect_key=life.task_id, task_id=life.task_id, epoch=2, attempt=1, at=instant(2))
    return run.history(row)


@bad("S11", "FAILED with 1 business rows")
def _(run: Specimen) -> History:
    # The handler's rows were committed, but not its finish.
    life = run.submit("a", effect="sql", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    return run.history(SqlEffect(task_id=life.task_id, epoch=1, attempt=1, at=instant(2)))


@bad("S11", "SCHEDULED with 1 ledger rows")
def _(run: Specimen) -> History:
    life = run.submit("a")
    row = Effect(effect_key=life.task_id, task_id=life.task_id, epoch=2, attempt=1, at=instant(2))
    return run.history(row)


@bad("S12", "did not find the task")
def _(run: Specimen) -> History:
    life = done(run)
    run.complete(run.op("get", {"task_id": life.task_id}), "ok", {"state": None})
    return run.history()


@bad("S12", "did not find the task")
def _(run: Specimen) -> History:
    # Its submit is unknown, but an earlier GET found it.
    life = run.submit("a", answer="info").read().dispatch().claim().succeed()
    run.complete(run.op("get", {"task_id": life.task_id}), "ok", {"state": None})
    return run.history()


@bad("S12", "did not find the task")
def _(run: Specimen) -> History:
    # The first answer counts, not the last.
    life = done(run).read()
    run.complete(run.op("get", {"task_id": life.task_id}), "ok", {"state": None})
    life.submit_again().read()
    return run.history()


@bad("S12", "did not find the task")
def _(run: Specimen) -> History:
    life = run.submit("a", answer="info").cancel()
    run.complete(run.op("get", {"task_id": life.task_id}), "ok", {"state": None})
    return run.history()


@bad("S19", "has the result None, but its handler returned 0")
def _(run: Specimen) -> History:
    told = {"do": "return", "value": 0, "whole": True}
    run.submit("a").dispatch().claim().tell(told).succeed()
    return run.edited(lambda r: replace(r, result=None) if isinstance(r, Effect) else r)


@bad.each
def test_bad(law: str, message: str, make: Maker) -> None:
    run = Specimen()
    refused(make(run), law, message)
