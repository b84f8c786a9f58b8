"""S13 on constructed histories: correct traces pass, each gap is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from bad_histories import refused, under
from good_histories import GOOD
from life import Life, instant
from specimen import Specimen
from traced import create_id, history, trace_id, traced

from chaos.checker.invariants import traces
from chaos.checker.invariants.span_exemptions import COLLECTOR_UNREACHABLE, KILLED, REPLY_LOST
from chaos.checker.invariants.traces import attempt_span_id, examine
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import Exit, Fault, Record
from chaos.history.spans import Span, SpanLink
from holdfast.model.lifecycle import Reason
from holdfast.telemetry import trace_context

Change = Callable[[Span], Span | None]
NOWHERE = "f" * 16


def lost(run: Specimen) -> Life:
    """A lost attempt of worker-1, done again by another; worker-1 emits no span of its end."""
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.LOST)
    return life.dispatch().claim("worker-2").succeed()


def edited(run: Specimen, *changes: Change, more: tuple[Record, ...] = ()) -> History:
    """Return the traced history with each span changed, or dropped where the change is None."""
    records: list[Record] = []
    for record in traced(run):
        changed: Record | None = record
        for change in changes:
            changed = change(changed) if isinstance(changed, Span) else changed
        records += [] if changed is None else [changed]
    return History([*records, *more])


def spans(name: str, change: Change, *, epoch: int | None = None) -> Change:
    """Return a change of the spans with this name (and epoch)."""
    return lambda s: (
        change(s) if s.name == name and epoch in {None, s.attributes.get("holdfast.epoch")} else s
    )


def dropped(_: Span) -> None:
    return None


def without(name: str, epoch: int | None = None) -> Change:
    return spans(name, dropped, epoch=epoch)


PROCESS, SEND, CREATE = "process default", "send default", "create default"


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_correct_traces_pass(make: Callable[[Specimen], object]) -> None:
    run = under("S13")
    make(run)
    findings = examine(history(run))
    assert findings.violations == []
    assert not findings.excused
    assert findings.sampled == len(run.lives)


def test_open_attempt_needs_no_span_but_its_calls_do() -> None:
    run = under("S13")
    life = run.submit("a").dispatch().claim("worker-1")
    call = Span(
        name="POST",
        role="client",
        trace_id=trace_id(life.task_id),
        span_id="1" * 16,
        parent_span_id=attempt_span_id(life.task_id, 1),
        service="holdfast-worker",
        instance="worker-1",
        start=2.0,
        end=2.1,
        status="unset",
    )
    assert examine(history(run, call)).violations == []


def other_id(span: Span) -> Span:
    return replace(span, span_id=NOWHERE)


def with_outcome(outcome: str) -> Change:
    return lambda s: replace(s, attributes=s.attributes | {"holdfast.outcome": outcome})


def in_own_trace(span: Span) -> Span:
    return replace(span, trace_id="a" * 32, parent_span_id=None, links=())


def below(parent: Callable[[Life], str]) -> Callable[[Life], Change]:
    return lambda life: lambda s: replace(s, parent_span_id=parent(life))


# Changes of the correct traces of ``lost``, each with the violation that S13 reports.
BAD: dict[str, Callable[[Life], tuple[Change, ...]]] = {
    "the attempt of epoch 1 has no span": lambda _: (without(PROCESS, 1),),
    "the attempt of epoch 3 has no span": lambda _: (without(PROCESS, 3),),
    "the span of the attempt of epoch 3 is in another trace": lambda _: (
        spans(PROCESS, in_own_trace, epoch=3),
    ),
    "the span of the attempt of epoch 1 has another id": lambda _: (
        spans(PROCESS, other_id, epoch=1),
    ),
    "says succeeded, the log lease lost": lambda _: (
        spans(PROCESS, with_outcome(Reason.SUCCEEDED), epoch=1),
    ),
    "is from worker-1, but scheduler-1 ended it": lambda _: (
        spans(PROCESS, lambda s: replace(s, instance="worker-1"), epoch=1),
    ),
    "is not a child of the create span": lambda _: (
        spans(PROCESS, lambda s: replace(s, parent_span_id=None), epoch=1),
    ),
    "has no link to the previous attempt": lambda _: (
        spans(PROCESS, lambda s: replace(s, links=s.links[1:]), epoch=3),
    ),
    "has no link to its dispatch batch": lambda _: (
        spans(PROCESS, lambda s: replace(s, links=s.links[:1]), epoch=3),
    ),
    "the task was accepted, but has no create span": lambda _: (without(CREATE),),
    "no send span under epoch 2": lambda _: (without(SEND, 2),),
    "no queued span for the claim of epoch 3": lambda _: (without("queued", 3),),
    "a span claims an attempt that did not end in the log": lambda _: (
        spans(PROCESS, lambda s: replace(s, attributes=s.attributes | {"holdfast.epoch": 5})),
    ),
    "POST from worker-1 is not a descendant of one of its attempts": lambda life: (
        spans("POST", below(lambda each: create_id(each.task_id))(life)),
    ),
    "POST from worker-2 is not a descendant of one of its attempts": lambda life: (
        spans("POST", below(lambda each: attempt_span_id(each.task_id, 1))(life)),
    ),
    "the parent of POST from worker-1 does not exist": lambda _: (
        spans("POST", lambda s: replace(s, parent_span_id=NOWHERE)),
    ),
    "the parent of create default from api-1 does not exist": lambda _: (without("POST /tasks/"),),
    "a link of send default from scheduler-1 does not exist": lambda _: (without("dispatch"),),
}


@pytest.mark.parametrize(("message", "changes"), BAD.items(), ids=BAD)
def test_each_gap_is_a_violation(
    message: str, changes: Callable[[Life], tuple[Change, ...]]
) -> None:
    run = under("S13")
    life = lost(run)
    refused(edited(run, *changes(life)), "S13", message)


@pytest.mark.parametrize("name", ["INSERT", "COMMIT"])
def test_committed_transaction_has_spans_of_its_statements(name: str) -> None:
    run = under("S13")
    run.submit("a", effect="sql").dispatch().claim().succeed()
    refused(edited(run, without(name)), "S13", f"epoch 1 has no span of its {name}")


def test_second_span_of_a_zombie_is_a_violation() -> None:
    run = under("S13")
    lost(run)
    twice = next(
        r for r in traced(run) if isinstance(r, Span) and r.name == PROCESS and len(r.links) == 0
    )
    zombie = replace(twice, instance="worker-1", service="holdfast-worker", end=twice.end + 1)
    refused(history(run, zombie), "S13", "the attempt of epoch 1 has 2 spans")


def exited(actor: str, at: float, code: int = -9) -> Exit:
    return Exit(actor=actor, pid=1, code=code, at=at, planned=True)


def injected(fault: str, target: str, start: float, end: float) -> tuple[Fault, Fault]:
    begin = Fault(type="start", fault_id="f#1", fault=fault, targets=(target,), at=start)
    return begin, replace(begin, type="end", at=end)


def second(run: Specimen, reason: Reason) -> float:
    """Return the second of the first transition with that reason."""
    whole = history(run)
    events = [e for rows in whole.events.values() for e in rows if e.reason == reason]
    return whole.seconds(events[0].at)


GAPS: dict[str, tuple[Change, Reason, str]] = {
    "create": (without(CREATE), Reason.SUBMITTED, "api-1"),
    "send": (without(SEND, 0), Reason.DISPATCHED, "scheduler-1"),
    "batch": (without("dispatch"), Reason.DISPATCHED, "scheduler-1"),
    "queued": (without("queued", 1), Reason.CLAIMED, "worker-1"),
    "attempt": (without(PROCESS, 1), Reason.SUCCEEDED, "worker-1"),
}


@pytest.mark.parametrize(("change", "reason", "teller"), GAPS.values(), ids=GAPS)
def test_unsent_spans_of_a_killed_process_are_exempt_and_counted(
    change: Change, reason: Reason, teller: str
) -> None:
    run = under("S13")
    run.submit("a").dispatch().claim("worker-1").succeed()
    at = second(run, reason)
    missing = edited(run, change)
    assert examine(missing).violations
    found = examine(History([*missing.records, exited(teller, at + 0.4)]))
    assert not found.violations
    assert set(found.excused) == {KILLED}
    judgement = judge(History([*missing.records, exited(teller, at + 0.4)]))
    assert judgement.meters.excused == dict(found.excused)


def test_calls_below_an_unsent_span_are_exempt_in_any_order() -> None:
    """Found by storm, seed 80512: the COMMIT span was missing and another child came first."""
    run = under("S13")
    run.submit("a").dispatch().claim("worker-1").succeed()

    def below_nothing(span: Span) -> Span:
        return replace(span, parent_span_id=NOWHERE)

    whole = edited(run, spans("POST", below_nothing), spans("finish", below_nothing))
    recorded = [record for record in whole.records if isinstance(record, Span)]
    others = [record for record in whole.records if not isinstance(record, Span)]
    gone = exited("worker-1", second(run, Reason.SUCCEEDED) + 0.4)
    for order in (recorded, recorded[::-1]):
        found = examine(History([*others, *order, gone]))
        assert not found.violations
        assert set(found.excused) == {KILLED}


@pytest.mark.parametrize(
    "end",
    [
        exited("worker-2", 1.5),  # another process
        exited("worker-1", 1.5, code=0),  # a graceful exit exports all spans first
        exited("worker-1", 9.0),  # it had enough time to export
        exited("worker-1", 0.1 - 5.0),  # an earlier incarnation
    ],
    ids=["another", "graceful", "late", "before"],
)
def test_exit_of_a_process_exempts_nothing_else(end: Exit) -> None:
    run = under("S13")
    run.submit("a").dispatch().claim("worker-1").succeed()
    assert examine(edited(run, without(PROCESS), more=(end,))).violations


def test_pause_before_the_kill_extends_the_exemption() -> None:
    run = under("S13")
    run.submit("a").dispatch().claim("worker-1").succeed()
    more = (*injected("pause", "worker-1", 1.3, 8.0), exited("worker-1", 8.1))
    found = examine(edited(run, without(PROCESS), more=more))
    assert not found.violations


def test_link_to_the_batch_of_a_killed_publisher_is_exempt() -> None:
    """Found by storm, seed 50134: the second hint was claimed; its publisher was killed."""
    run = under("S13")
    life = run.submit("a").dispatch()
    run.now += 5.0
    life.republish().claim("worker-1").succeed()
    at = second(run, Reason.REPUBLISHED)

    def astray(span: Span) -> Span:
        return replace(span, links=tuple(replace(link, span_id=NOWHERE) for link in span.links))

    missing = edited(run, spans(PROCESS, astray))
    assert examine(missing).violations
    found = examine(History([*missing.records, exited("scheduler-2", at + 0.3)]))
    assert not found.violations
    assert found.excused[KILLED] >= 1


def test_transition_committed_after_the_exit_is_exempt() -> None:
    run = under("S13")
    life = run.submit("a").dispatch().claim("worker-1")
    run.now = 20.0
    life.succeed()
    found = examine(edited(run, without(PROCESS), more=(exited("worker-1", 3.0, code=3),)))
    assert not found.violations
    assert found.excused[KILLED] == 1


FAULTS = {
    "collector": (injected("down", "worker-1->collector", 1.0, 3.0), COLLECTOR_UNREACHABLE),
    "reply": (injected("timeout", "worker-1->postgres", 1.0, 3.0), REPLY_LOST),
    # Found by storm in simulation, seed 1212721499: a claim whose reply was swallowed.
    "swallowed": (injected("silent_drop", "worker-1->postgres", 1.0, 3.0), REPLY_LOST),
    "postgres": (injected("kill", "postgres", 1.0, 3.0), REPLY_LOST),
    "frozen": (injected("pause", "worker-1", 1.0, 3.0), REPLY_LOST),
}


@pytest.mark.parametrize(("fault", "why"), FAULTS.values(), ids=FAULTS)
def test_fault_exempts_spans_that_could_not_be_exported(
    fault: tuple[Fault, Fault], why: str
) -> None:
    run = under("S13")
    run.submit("a").dispatch().claim("worker-1").succeed()
    found = examine(edited(run, without(PROCESS), more=fault))
    assert not found.violations
    assert found.excused[why] >= 1
    later = tuple(replace(half, at=half.at + 30) for half in fault)
    assert examine(edited(run, without(PROCESS), more=later)).violations


@pytest.mark.parametrize(
    "fault",
    [
        injected("timeout", "worker-2->postgres", 1.0, 3.0),
        injected("timeout", "worker-1->redis", 1.0, 3.0),
        injected("latency", "worker-1->postgres", 1.0, 3.0),
        injected("exhaust", "postgres", 1.0, 3.0),
        injected("latency", "worker-1->collector", 1.0, 3.0),
    ],
    ids=lambda fault: f"{fault[0].fault} {fault[0].targets[0]}",
)
def test_fault_that_loses_no_reply_exempts_nothing(fault: tuple[Fault, Fault]) -> None:
    run = under("S13")
    run.submit("a").dispatch().claim("worker-1").succeed()
    assert examine(edited(run, without(PROCESS), more=fault)).violations


def test_unsampled_task_needs_no_spans() -> None:
    run = under("S13")
    lost(run)
    whole = History(traced(run, sampled=False))
    assert examine(whole).violations == []
    judgement = judge(whole)
    assert judgement.verdict == "unknown"
    assert "S13 had nothing to judge: no task was sampled" in judgement.doubts


def test_dangling_link_of_a_batch_without_task_is_reported() -> None:
    run = under("S13")
    lost(run)
    link = SpanLink(trace_id="b" * 32, span_id=NOWHERE)
    changed = edited(run, spans("dispatch", lambda s: replace(s, links=(link,))))
    refused(changed, "S13", "a link of dispatch from scheduler-1 does not exist")


def test_cycle_of_parents_terminates() -> None:
    run = under("S13")
    lost(run)
    changed = edited(run, spans("POST", lambda s: replace(s, parent_span_id=s.span_id)))
    refused(changed, "S13", "is not a descendant of one of its attempts")


def test_attempt_span_id_matches_the_product() -> None:
    task_id = str(UUID(int=7))
    assert attempt_span_id(task_id, 3) == f"{trace_context.attempt_span_id(UUID(task_id), 3):016x}"


def test_specimen_and_history_agree_on_seconds() -> None:
    run = under("S13")
    lost(run)
    whole = history(run)
    (row,) = whole.tasks.values()
    create = next(s for s in whole.spans[trace_id(row.task_id)] if s.name == CREATE)
    assert instant(create.start) == row.created_at


def test_traces_are_examined_once_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = under("S13")
    lost(run)
    made: list[History] = []

    class Counted(traces._Examination):
        def __init__(self, examined: History) -> None:
            made.append(examined)
            super().__init__(examined)

    monkeypatch.setattr(traces, "_Examination", Counted)
    judgement = judge(history(run))
    assert judgement.meters.spans > 0
    assert made == [judgement.history]
