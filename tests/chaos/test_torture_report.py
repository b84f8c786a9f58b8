"""What a torture run counts as lost, unfinished, doubled or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from life import Life
from specimen import Specimen

from chaos.history.records import Effect, Record, SqlEffect, TaskRow
from chaos.live.torture.report import TortureReport
from holdfast.model.lifecycle import Reason


def succeeded(run: Specimen, key: str) -> Life:
    return run.submit(key, effect="sql").dispatch().claim().succeed()


def judged(change: Callable[[list[Record]], object] = list) -> TortureReport:
    """Judge two tasks that succeeded and one that failed, after a change of the records."""
    run = Specimen()
    lives = [succeeded(run, "a"), succeeded(run, "b")]
    lives.append(
        run.submit("c", effect="sql", max_attempts=1).dispatch().claim().end(Reason.FAILED)
    )
    accepted = {life.asked["key"]: life.task_id for life in lives}
    records = run.all_records()
    change(records)
    report = TortureReport(sent=3, accepted=len(accepted))
    report.judge(accepted, records)
    return report


def first(records: list[Record], kind: type[Record]) -> int:
    return next(n for n, record in enumerate(records) if isinstance(record, kind))


def drop(kind: type[Record]) -> Callable[[list[Record]], object]:
    return lambda records: records.pop(first(records, kind))


def repeat(kind: type[Record]) -> Callable[[list[Record]], object]:
    return lambda records: records.append(records[first(records, kind)])


def changed(**changes: Any) -> Callable[[list[Record]], object]:
    def change(records: list[Record]) -> None:
        number = first(records, TaskRow)
        row = records[number]
        assert isinstance(row, TaskRow)
        records[number] = replace(row, **changes)

    return change


def test_run_that_kept_the_promise() -> None:
    report = judged()
    assert report.succeeded
    assert report.states == {"SUCCEEDED": 2, "FAILED": 1}
    assert "accepted    3 of 3 submitted" in list(report.lines())


@pytest.mark.parametrize(
    ("change", "counted_as"),
    [
        (drop(TaskRow), {"lost": 1, "wrong": 1}),
        (drop(Effect), {"wrong": 1}),
        (drop(SqlEffect), {"wrong": 1}),
        (repeat(Effect), {"doubled": 1}),
        (repeat(SqlEffect), {"doubled": 1}),
        (changed(key="b"), {"lost": 1, "doubled": 2}),
        (changed(state="RUNNING"), {"wrong": 1}),
        (changed(state="CANCELLED"), {"wrong": 1}),
    ],
)
def test_broken_promise(
    change: Callable[[list[Record]], object], counted_as: dict[str, int]
) -> None:
    report = judged(change)
    assert not report.succeeded
    names = ("lost", "unfinished", "doubled", "wrong")
    assert {n: len(getattr(report, n)) for n in names if getattr(report, n)} == counted_as


def test_task_that_has_not_ended() -> None:
    run = Specimen()
    life = run.submit("a", effect="sql").dispatch()
    report = TortureReport(sent=1, accepted=1)
    report.judge({"a": life.task_id}, run.all_records())
    assert report.unfinished == ["a QUEUED"]
    assert not report.succeeded


def test_run_in_which_nothing_was_accepted_shows_nothing() -> None:
    assert not TortureReport().succeeded


def test_refused_submit_is_reported() -> None:
    report = judged()
    report.refused.append("422 no")
    assert not report.succeeded
    assert "refused     1: 422 no" in list(report.lines())


def test_report_names_what_was_never_struck() -> None:
    report = judged()
    report.blows["kill worker-1"] = 2
    assert "kill worker" not in report.spared
    assert "stop worker" in report.spared
