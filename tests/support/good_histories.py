"""Good histories, which every invariant must accept."""

from __future__ import annotations

from collections.abc import Callable

from life import Life
from specimen import Specimen, retire

from holdfast.model.lifecycle import Reason, State


def done(run: Specimen, key: str, **options: object) -> Life:
    """Add a task that succeeds in its first attempt."""
    return run.submit(key, **options).dispatch().claim().succeed()  # type: ignore[arg-type]


GOOD: dict[str, Callable[[Specimen], object]] = {}


def good(make: Callable[[Specimen], object]) -> Callable[[Specimen], object]:
    GOOD[make.__name__] = make
    return make


@good
def empty_run(run: Specimen) -> None:
    pass


@good
def succeeds_with_each_effect(run: Specimen) -> None:
    for effect in ("ledger", "sql", "external"):
        done(run, effect, effect=effect).read()


@good
def due_exactly_now(run: Specimen) -> None:
    life = run.submit("a", later=1.0).dispatch()
    # run_at is relative to the instant before the invoke; the claim happens exactly at run_at.
    run.now = 2.0 - 0.01
    life.claim().succeed()


@good
def lost_and_done_by_another(run: Specimen) -> None:
    life = run.submit("a", effect="external").dispatch().claim("worker-1").call_out()
    life.end(Reason.LOST).dispatch().claim("worker-2").succeed().stale_finish("worker-1", 1)


@good
def republished_failed_released(run: Specimen) -> None:
    life = run.submit("a").dispatch().republish().claim().end(Reason.FAILED).dispatch()
    life.claim("worker-2").end(Reason.RELEASED).dispatch().claim().succeed()


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
    # The external call was made and cannot be undone; the ledger stays empty.
    external = run.submit("external", effect="external").dispatch().claim().call_out()
    external.cancel().end(Reason.DISCARDED)


@good
def unknown_submit_that_was_stored(run: Specimen) -> None:
    run.submit("a", answer="info").dispatch().claim().succeed()


@good
def unknown_submit_that_was_not(run: Specimen) -> None:
    run.op("submit", {"key": "a", "name": "chaos_ledger", "payload": {}, "run_at": None})


@good
def unknown_cancel_that_was_applied(run: Specimen) -> None:
    life = run.submit("a")
    run.lose_replies()
    run.complete(run.op("cancel", {"task_id": life.task_id}), "info", {"error": "timeout"})
    life.step(State.CANCELLED, Reason.CANCELLED, "api:api-1")


@good
def resent_after_nothing_was_done(run: Specimen) -> None:
    done(run, "a")
    life = run.submit("b")
    run.lose_replies()
    refusal = {"status": 503, "problem": "unavailable", "task_id": None}
    run.complete(run.op("submit", life.asked), "fail", refusal)
    life.submit_again().dispatch().claim().succeed()


@good
def repeats_and_mismatches(run: Specimen) -> None:
    done(run, "a").submit_again().submit_again(other=True).read()


@good
def one_key_of_two_names_and_secrets(run: Specimen) -> None:
    run.api_key = "shop"
    done(run, "a").submit_again(secret=2).submit_again(other=True)
    run.api_key = "desk"
    done(run, "a").submit_again()


@good
def absent_before_it_was_submitted(run: Specimen) -> None:
    invoke = run.op("get", {"task_id": "00000000-0000-7000-8000-000000000001"})
    run.complete(invoke, "ok", {"state": None})
    assert done(run, "a").task_id == invoke.value["task_id"]


@good
def absent_after_unknown_submit(run: Specimen) -> None:
    unknown = run.submit("a", answer="info")
    run.complete(run.op("cancel", {"task_id": unknown.task_id}), "fail", {"status": 404})
    run.complete(run.op("get", {"task_id": unknown.task_id}), "info", {"state": "QUEUED"})
    run.complete(run.op("get", {"task_id": unknown.task_id}), "ok", {"state": None})
    unknown.dispatch().claim().succeed().read()


@good
def read_in_every_state(run: Specimen) -> None:
    life = run.submit("a", later=0.2).read().cancel().read()
    life = run.submit("b").read().dispatch().read().retry().claim().read().read_events()
    life.end(Reason.FAILED).read().dispatch().claim().end(Reason.DISCARDED).read().retry().read()
    life.dispatch().claim().succeed().read().read_events().retry()


@good
def answers_that_overlap_the_next_event(run: Specimen) -> None:
    life = run.submit("a").dispatch()
    invoke = run.op("get", {"task_id": life.task_id})
    before = {"state": life.state, "task": life.body()}
    run.complete(invoke, "ok", before)
    invoke = run.op("get", {"task_id": life.task_id})
    life.claim()
    run.complete(invoke, "ok", before)
    # The commit of the claim may be later than its instant, until its successor is stamped.
    run.complete(run.op("get", {"task_id": life.task_id}), "ok", before)
    life.succeed().read()


@good
def walks_through_listings(run: Specimen) -> None:
    run.walk(2)
    for key in "abcde":
        done(run, key, effect="sql" if key == "c" else "ledger")
    run.submit("open").cancel()
    run.walk(1).walk(2).walk(4, state="SUCCEEDED").walk(10, name="chaos_sql").walk(
        3, state="FAILED"
    )


@good
def released_then_failed_within_its_limit(run: Specimen) -> None:
    life = run.submit("a", max_attempts=2).dispatch().claim().end(Reason.RELEASED)
    life.dispatch().claim().end(Reason.FAILED).dispatch().claim().end(Reason.FAILED)
    assert life.state is State.FAILED


@good
def delayed_as_each_handler_declares(run: Specimen) -> None:
    for life in (run.submit("a"), run.submit("b", effect="sql")):
        for told in ({"do": "fail"}, {"do": "retry", "after": 0.35}, {"do": "fail"}):
            life.dispatch().claim().end(Reason.FAILED, told=told)
            if life.attempt == 1:
                life.dispatch().claim().end(Reason.LOST)  # raises no back-off
        life.dispatch().claim().succeed()


@good
def timed_out_and_returned_a_value(run: Specimen) -> None:
    life = run.submit("a").dispatch().claim().end(Reason.TIMED_OUT).dispatch().claim()
    life.tell({"do": "return", "value": [None, 1.5, "é"]}).succeed()
    late = run.submit("b").dispatch().claim().tell({"do": "swallow"})
    late.end(Reason.TIMED_OUT)  # it swallows its cancellation, and returns too late
    late.dispatch().claim().succeed()


@good
def returned_nothing_but_a_value(run: Specimen) -> None:
    for key, value in enumerate((0, "", None)):
        told = {"do": "return", "value": value, "whole": True}
        run.submit(f"{key}", effect="sql").dispatch().claim().tell(told).succeed()


@good
def discarded(run: Specimen) -> None:
    assert run.submit("a").dispatch().claim().end(Reason.DISCARDED).state is State.FAILED


@good
def failed_for_want_of_its_effect(run: Specimen) -> None:
    external = {"type": "Retry", "message": "the sink did not respond: reset"}
    sql = {"type": "OutcomeUnknown", "message": "the reply to COMMIT was lost"}
    for life, error in (
        (run.submit("external", effect="external"), external),
        (run.submit("sql", effect="sql"), sql),
    ):
        life.dispatch().claim().end(Reason.FAILED, told={}, detail={"error": error})
        life.dispatch().claim().succeed()


@good
def released_by_a_worker_that_stops(run: Specimen) -> None:
    stopped = {"error": {"type": "Stopped", "message": "shutting down"}}
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.RELEASED, detail=stopped)
    life.dispatch().claim("worker-2").succeed()


@good
def handed_back_since_its_worker_stopped_without_an_answer_to_its_claim(run: Specimen) -> None:
    life = run.submit("a").dispatch().claim("worker-1")
    retire(run, life)
    life.owner = "scheduler:scheduler-1"
    life.end(Reason.RELEASED, told={}, detail={"error": {"type": "NotStarted"}})
    life.dispatch().claim("worker-2").succeed()
