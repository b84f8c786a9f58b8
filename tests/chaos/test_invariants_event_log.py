"""Bad histories of the log of transitions: S3, S6 to S9, S15 and S16 must report them."""

from __future__ import annotations

from dataclasses import replace

from bad_histories import (
    BadHistories,
    Maker,
    copy_of,
    done,
    on_event,
    on_row,
    refused,
    under,
    without,
)
from life import instant
from specimen import Specimen

from chaos.history.history import History
from chaos.history.records import Effect, Event, Record, SqlEffect, TaskRow
from holdfast.model.lifecycle import Reason

bad = BadHistories()


def dropped(_: Event) -> None:
    return None


def _is(record: Record, reason: Reason) -> bool:
    return isinstance(record, Event) and record.reason == reason


@bad("S3", "claimed 0.000001 s before")
def _(run: Specimen) -> History:
    life = run.submit("a", later=1.0)
    run.now = 3.0
    life.dispatch().claim().succeed()
    return run.edited(on_event(Reason.CLAIMED, lambda e: replace(e, at=instant(1.999999))))


@bad("S3", "before it was due")
def _(run: Specimen) -> History:
    # The row lacks the run_at that the client requested.
    life = run.submit("a", later=1.0)
    life.due = 0.0
    life.dispatch().claim().succeed()
    return run.edited(on_row(lambda t: replace(t, run_at=instant(1.0))))


@bad("S3", "before it was due")
def _(run: Specimen) -> History:
    # Only the second attempt is early.
    life = run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    early = instant(0.5)
    return run.edited(
        on_event(Reason.CLAIMED, lambda e: replace(e, at=early) if e.seq == life.seq - 1 else e),
    )


@bad("S6", "event 2 has seq 3")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.DISPATCHED, dropped))


@bad("S6", "event 2 has seq 1")
def _(run: Specimen) -> History:
    done(run)
    return run.history(copy_of(Event, run))


@bad("S6", "event 1 has seq 2")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.SUBMITTED, dropped))


@bad("S6", "its log ends with")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.SUCCEEDED, dropped))


@bad("S6", "the row has finished_at = 2026-01-09T10:00:00.500000Z, by its log it is")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_row(lambda t: replace(t, finished_at=instant(0.5))))


@bad("S6", "the row has finished_at = None, by its log it is")
def _(run: Specimen) -> History:
    run.submit("a").cancel()
    return run.edited(on_row(lambda t: replace(t, finished_at=None)))


@bad("S6", "its log ends with")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_row(lambda t: replace(t, state="FAILED")))


@bad("S6", "SCHEDULED -> RUNNING (claimed) is not legal")
def _(run: Specimen) -> History:
    done(run)
    jump = on_event(Reason.CLAIMED, lambda e: replace(e, from_state="SCHEDULED", seq=2))
    return run.edited(lambda r: jump(r) if not _is(r, Reason.DISPATCHED) else None)


@bad("S6", "comes from QUEUED, but the task was SCHEDULED")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.DISPATCHED, lambda e: replace(e, from_state="QUEUED")))


@bad("S6", "SUCCEEDED -> QUEUED (dispatched) is not legal")
def _(run: Specimen) -> History:
    life = done(run)
    event = Event(
        task_id=life.task_id,
        seq=5,
        at=instant(3),
        from_state="SUCCEEDED",
        to_state="QUEUED",
        epoch=2,
        attempt=1,
        actor="scheduler:scheduler-1",
        reason=Reason.DISPATCHED,
    )
    return run.history(event)


@bad("S6", "-> ARCHIVED")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.SUCCEEDED, lambda e: replace(e, to_state="ARCHIVED")))


@bad("S6", "no events")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(without(Event))


@bad("S6", "no row")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(without(TaskRow))


@bad("S7", "claimed has attempt 2, not 1")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.CLAIMED, lambda e: replace(e, attempt=2)))


@bad("S7", "claimed has attempt 1, not 2")
def _(run: Specimen) -> History:
    # The second claim was not counted.
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    return run.edited(lambda r: replace(r, attempt=1) if isinstance(r, Event) and r.attempt else r)


@bad("S7", "dispatched has attempt 1, not 0")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.DISPATCHED, lambda e: replace(e, attempt=1)))


@bad("S7", "the row has losses = 0, its log 1")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    return run.edited(on_row(lambda t: replace(t, losses=0)))


@bad("S7", "the row has handed_back = 1, its log 0")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_row(lambda t: replace(t, handed_back=1)))


@bad("S7", "has attempt = 2, its log 1")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_row(lambda t: replace(t, attempt=2)))


@bad("S7", "attempt that failed led to SCHEDULED, not to FAILED: 1 of 1 attempts failed")
def _(run: Specimen) -> History:
    # Run again beyond the attempts that were asked for, whatever the row says.
    life = run.submit("a", max_attempts=1)
    life.max_attempts = 2
    life.dispatch().claim().end(Reason.FAILED).dispatch().claim().succeed()
    return run.history()


@bad("S7", "attempt that lost led to SCHEDULED, not to FAILED: 0 of 5 attempts failed, 3 of 3")
def _(run: Specimen) -> History:
    # Lost more often than is configured.
    life = run.submit("a")
    life.max_losses = 4
    for _ in range(3):
        life.dispatch().claim().end(Reason.LOST)
    life.dispatch().claim().succeed()
    return run.history()


@bad("S7", "attempt that failed led to FAILED, not to SCHEDULED")
def _(run: Specimen) -> History:
    # Dead-lettered although attempts were left.
    life = run.submit("a", max_attempts=2)
    life.max_attempts = 1
    life.dispatch().claim().end(Reason.FAILED)
    return run.history()


@bad("S7", "attempt that lost led to SCHEDULED, not to CANCELLED")
def _(run: Specimen) -> History:
    # A task with a cancel request was lost and rescheduled.
    life = run.submit("a").dispatch().claim().cancel()
    life.cancel_requested = False
    life.end(Reason.LOST).dispatch().claim().succeed()
    return run.history()


@bad("S8", "claimed has epoch 0, not 1")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.CLAIMED, lambda e: replace(e, epoch=0)))


@bad("S8", "lost has epoch 1, not 2")
def _(run: Specimen) -> History:
    # Reclaimed without a new epoch, so the zombie still matches.
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    return run.edited(on_event(Reason.LOST, lambda e: replace(e, epoch=1)))


@bad("S8", "submitted has epoch 2, not 0")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.SUBMITTED, lambda e: replace(e, epoch=2)))


@bad("S8", "odd means owned")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_row(lambda t: replace(t, epoch=3)))


@bad("S8", "odd means owned")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim()
    return run.edited(on_row(lambda t: replace(t, epoch=2)))


@bad("S8", "effect under (epoch, attempt) = (2, 1), the success has (4, 2)")
def _(run: Specimen) -> History:
    # The zombie's result is in the ledger, the new owner's success in the log.
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    return run.edited(lambda r: replace(r, epoch=2, attempt=1) if isinstance(r, Effect) else r)


@bad("S8", "business row of epoch 1, attempt 1 was committed")
def _(run: Specimen) -> History:
    life = run.submit("a", effect="sql").dispatch().claim().end(Reason.LOST)
    life.dispatch().claim().succeed()
    return run.edited(lambda r: replace(r, epoch=1, attempt=1) if isinstance(r, SqlEffect) else r)


@bad("S8", "was refused to its owner")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim("worker-1").stale_finish("worker-1", 1).succeed()
    return run.history()


@bad("S9", "ended (succeeded) an attempt of")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim("worker-1")
    life.owner = f"worker:{run.worker('worker-2')}"
    life.succeed()
    return run.history()


@bad("S9", "ended (succeeded) an attempt of")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim()
    life.owner = "scheduler:scheduler-1"
    life.succeed()
    return run.history()


@bad("S9", "ended (lost) an attempt of")
def _(run: Specimen) -> History:
    # A worker cannot end its attempt as lost.
    life = run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    return run.edited(on_event(Reason.LOST, lambda e: replace(e, actor=life.owner)))


@bad("S9", "not a known incarnation")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.CLAIMED, lambda e: replace(e, actor="worker:nobody")))


@bad("S9", "owns it")
def _(run: Specimen) -> History:
    # Two claims without an end between them.
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim("worker-2").succeed()
    return run.edited(on_event(Reason.LOST, dropped))


@bad("S9", "that had no owner")
def _(run: Specimen) -> History:
    done(run)
    return run.edited(on_event(Reason.CLAIMED, dropped))


@bad("S15", "its payload does not plan attempt 1 (lost)")
def _(run: Specimen) -> History:
    # A task that ran beside a poison task and was lost with it each time.
    poison, life = run.submit("p", poison=True), run.submit("a")
    for _ in range(3):
        for each in (poison, life):
            each.dispatch().claim().end(Reason.LOST)
    return run.history()


@bad("S15", "its payload does not plan attempt 1 (failed)")
def _(run: Specimen) -> History:
    run.submit("a", max_attempts=1).dispatch().claim().end(Reason.FAILED, told={"do": "leave"})
    return run.history()


@bad("S15", "SUCCEEDED, but its payload makes attempt 2 kill")
def _(run: Specimen) -> History:
    done(run)
    run.submit("p", poison=True).dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    return run.history()


@bad("S16", "attempt 1 lost")
def _(run: Specimen) -> History:
    run.submit("a").dispatch().claim().end(Reason.LOST).dispatch().claim().succeed()
    return run.history()


@bad("S16", "attempt 2 timed_out")
def _(run: Specimen) -> History:
    life = run.submit("a").dispatch().claim().end(Reason.FAILED)
    life.dispatch().claim().end(Reason.TIMED_OUT, told={"do": "leave"}).dispatch().claim().succeed()
    return run.history()


@bad("S16", "attempt 1 timed_out")
def _(run: Specimen) -> History:
    # Reclaimed by the scheduler: the worker hung, but its lease did not expire.
    life = run.submit("a").dispatch().claim()
    life.owner = "scheduler:scheduler-1"
    life.end(Reason.TIMED_OUT, told={"do": "leave"}).dispatch().claim().succeed()
    return run.history()


@bad("S16", "attempt 1 lost")
def _(run: Specimen) -> History:
    # Wasted despite the cancel request.
    run.submit("a").dispatch().claim().cancel().end(Reason.LOST)
    return run.history()


@bad.each
def test_bad(law: str, message: str, make: Maker) -> None:
    run = under(law)
    refused(make(run), law, message)
