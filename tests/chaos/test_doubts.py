"""Doubts about the harness: what it recorded of itself contradicts the plan or other records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from life import instant
from specimen import Specimen

from chaos.checker.bounds import allowed
from chaos.checker.doubts import doubts_of
from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.invariants.violation import Violation
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import Bound, Effect, Event, Record, Run, SinkCall, decode, encode
from chaos.report import terminal
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import Backoff, Reason


def found(history: History) -> list[str]:
    return list(doubts_of(history, Scenario.model_validate(history.run.scenario), history))


def good() -> Specimen:
    run = Specimen()
    run.submit("a").dispatch().claim().succeed()
    return run


# -------------------------------------------------------------------------------------------- T


def with_run(**changes: Any) -> History:
    return good().edited(lambda r: replace(r, **changes) if isinstance(r, Run) else r)


def test_bound_other_than_computed_is_doubted() -> None:
    assert found(good().history()) == []
    doubled = Bound(seconds=40.0, terms=())
    assert found(with_run(bound=doubled)) == [
        "T was recorded as 40.00 s, the settings imply 20.00 s"
    ]


def computed(backoff: Backoff | None, settings: dict[str, Any]) -> Run:
    run = with_run().run
    scenario = Scenario.model_validate(
        run.scenario | {"expect": {}, "topology": {"settings": settings}}
    )
    return replace(
        run,
        scenario=scenario.document,
        settings=settings | {"trace_ratio": 1.0},
        bound=allowed(scenario, backoff),
        backoff=backoff,
    )


@pytest.mark.parametrize("backoff", [None, Backoff(base_seconds=90.0)])
def test_bound_is_computed_again_from_what_is_recorded(backoff: Backoff | None) -> None:
    run = computed(backoff, {"lease_seconds": 9.0})
    read = decode(encode(run))
    assert read == run

    def doubts(run: Run) -> list[str]:
        return found(good().edited(lambda r: run if isinstance(r, Run) else r))

    assert doubts(run) == []
    assert doubts(replace(run, backoff=Backoff(max_seconds=400.0)))
    assert doubts(replace(run, settings=run.settings | {"lease_seconds": 10.0})) == [
        "the recorded settings are not those of the scenario: lease_seconds",
    ]
    longer = replace(run, settings=run.settings | {"lease_seconds": 40.0})
    assert len(doubts(longer)) == 2
    unusable = replace(run, settings=run.settings | {"poll_seconds": "often"})
    assert doubts(unusable) == ["the recorded settings are not settings of Holdfast"]


# ---------------------------------------------------------------------------------------- the sink


def called(*, applied: bool = False, repeated: bool = True) -> Specimen:
    """A task whose effect was repeated at the sink; its handler says what it was answered."""
    run = Specimen()
    life = run.submit("a", effect="external").dispatch().claim()
    if repeated:
        life.call_out().end(Reason.FAILED).dispatch().claim()
    life.succeed()
    run.records = [
        replace(r, result={"applied": applied}) if isinstance(r, Effect) else r for r in run.records
    ]
    return run


def test_every_call_that_was_answered_is_in_the_record_of_the_sink() -> None:
    assert found(called().history()) == []
    assert found(called(applied=True, repeated=False).history()) == []
    run = called()
    task_id = run.lives[0].task_id

    def forgetful(record: Record) -> Record | None:
        return None if isinstance(record, SinkCall) and not record.applied else record

    assert found(run.edited(forgetful)) == [
        f"the sink has no record of calls that it answered: {task_id} was a repeat"
    ]
    (doubt,) = found(called(applied=True).history())
    assert doubt.endswith("was applied")


def test_attempts_that_failed_after_their_call_are_in_the_record_of_the_sink() -> None:
    run = Specimen()
    life = run.submit("a", effect="external").dispatch().claim().call_out()
    life.end(Reason.FAILED, told={"do": "fail_late"}).dispatch().claim().call_out().succeed()
    assert found(run.history()) == []
    (doubt,) = found(run.edited(lambda r: None if isinstance(r, SinkCall) else r))
    assert doubt == (
        "the sink has no record of calls that it answered: "
        f"{life.task_id} was called before attempt 1 failed"
    )


@pytest.mark.parametrize("applied", [True, False])
def test_sink_applies_the_first_call_of_each_key(applied: bool) -> None:
    run = called()

    def wrong(record: Record) -> Record:
        return replace(record, applied=applied) if isinstance(record, SinkCall) else record

    doubts = found(run.edited(wrong))
    number = 2 if applied else 1
    assert doubts[0] == (
        "the sink applied other calls than the first of each key: "
        f"{run.lives[0].task_id}, call {number}"
    )


# ---------------------------------------------------------------------------------------- the clock


@pytest.mark.parametrize(
    ("seconds", "doubted"), [(0.9, False), (-0.9, False), (5, True), (-5, True)]
)
def test_clocks_of_database_and_harness_that_differ(seconds: float, doubted: bool) -> None:
    doubts = found(with_run(database_epoch=instant(seconds)))
    assert len(doubts) == doubted
    assert all("1 of 1 tasks were created up to " in doubt for doubt in doubts)


def test_task_may_be_created_by_any_submit_that_is_unknown() -> None:
    run = Specimen()
    life = run.submit("a", answer="info")
    run.now += 10.0
    life.submit_again().dispatch().claim().succeed()
    assert found(run.history()) == []


def test_events_that_were_read_in_reverse_order() -> None:
    records = good().all_records()
    events = [record for record in records if isinstance(record, Event)]
    others = [record for record in records if not isinstance(record, Event)]
    assert found(History([*others, *events])) == []
    assert found(History([*others, *reversed(events)])) == [
        "the events of 1 tasks were not read in their order"
    ]


# ------------------------------------------------------------------------------------- in one line


def test_doubts_are_told_in_one_line() -> None:
    def crash(history: History) -> list[Violation]:
        raise ValueError("first line\n  its log ends:\n  raw")

    history = with_run(bound=Bound(seconds=40.0, terms=()))
    judgement = judge(history, dict(INVARIANTS) | {"S3": crash})
    assert judgement.verdict == "unknown"
    assert terminal.details(judgement) == (
        "  unknown: T was recorded as 40.00 s, the settings imply 20.00 s; "
        "S3 crashed: ValueError: first line its log ends: raw"
    )
