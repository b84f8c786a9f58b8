"""The curves of a report: properties for all legal runs, and examples of small runs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from generated_histories import executions
from hypothesis import given
from hypothesis import strategies as st
from specimen import Specimen

from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.report import curves
from chaos.report.curves import DUE, PLACES, WAITING
from chaos.report.model import RunModel
from chaos.report.timeline import duration, timeline
from examples import examples
from holdfast.model.lifecycle import TERMINAL, Reason, State
from observability import charts
from observability.charts import Axis, Steps

steps = st.lists(
    st.tuples(st.floats(0, 100, allow_nan=False), st.integers(0, 50)), max_size=400
).map(lambda points: tuple(dict(sorted(points)).items()))


def depth_of(history: History) -> dict[str, Steps]:
    return curves.depth(curves.stays_by_task(history))


# ------------------------------------------------------------------------------- laws of curves


@examples(60)
@given(run=executions())
def test_every_task_is_in_one_place_at_any_instant(run: Specimen) -> None:
    history = run.history()
    depth = depth_of(history)
    births = [history.seconds(events[0].at) for events in history.events.values()]
    instants = {at for curve in depth.values() for at, _ in curve}
    for at in instants:
        there = sum(charts.value_at(curve, at) for curve in depth.values())
        assert there == sum(birth <= at for birth in births)


@examples(60)
@given(run=executions())
def test_last_depth_equals_the_final_read(run: Specimen) -> None:
    history = run.history()
    last = {place: curve[-1][1] if curve else 0 for place, curve in depth_of(history).items()}
    for state in State:
        there = last[WAITING] + last[DUE] if state is State.SCHEDULED else last[state]
        assert there == sum(task.state == state for task in history.tasks.values())
    still_open = sum(count for place, count in last.items() if place not in TERMINAL)
    assert still_open == sum(task.state not in TERMINAL for task in history.tasks.values())


@examples(60)
@given(run=executions())
def test_last_points_equal_the_meters(run: Specimen) -> None:
    history = run.history()
    meters = judge(history).meters
    assert charts.value_at(curves.accepted(history), 1e9) == meters.accepted
    assert charts.value_at(curves.effects(history), 1e9) == meters.effects
    assert len(curves.latencies(history)) == len(history.effects)


@examples(60)
@given(run=executions())
def test_stays_of_a_task_have_no_gaps(run: Specimen) -> None:
    history = run.history()
    for task_id in history.events:
        stays = curves.stays(history, task_id)
        assert stays[-1].end is None
        assert all(before.end == after.start for before, after in pairwise(stays))
        assert all(stay.place in PLACES for stay in stays)


@examples(60)
@given(curve=steps, columns=st.integers(1, 20))
def test_thinning_keeps_first_last_and_extremes(curve: Steps, columns: int) -> None:
    thin = charts.thinned(curve, Axis(0.0, 100.0), columns)
    assert set(thin) <= set(curve)
    assert list(thin) == sorted(thin)
    assert len(thin) <= 4 * (columns + 1)
    if curve:
        assert (thin[0], thin[-1]) == (curve[0], curve[-1])
        for extreme in (min, max):
            assert extreme(v for _, v in thin) == extreme(v for _, v in curve)


@examples(60)
@given(st.lists(steps, min_size=1, max_size=3), st.floats(0, 100))
def test_stacked_curves_add_up(piled: list[Steps], at: float) -> None:
    top = charts.stacked(piled)[-1]
    assert charts.value_at(top, at) == sum(charts.value_at(curve, at) for curve in piled)


@examples(60)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_quantile_is_a_value_not_exceeded_by_its_share(values: list[float], q: float) -> None:
    found = charts.quantile(values, q)
    assert found is not None
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values) - 1e-6


@examples(60)
@given(st.floats(-100, 1e5), st.floats(0.01, 1e5), st.integers(2, 20))
def test_ticks_are_few_ascending_and_in_range(start: float, span: float, most: int) -> None:
    found = charts.ticks(start, start + span, most)
    assert 1 <= len(found) <= most
    assert found == sorted(set(found))
    slack = 1e-6 * max(1.0, abs(start) + span)
    assert len(found) == 1 or start - slack <= found[0] <= found[-1] <= start + span + slack


# ------------------------------------------------------------------------------------ small runs


def test_task_is_due_from_its_due_time_not_its_submit() -> None:
    run = Specimen()
    life = run.submit("a", later=2.0)
    run.now += 5
    life.dispatch().claim().succeed()
    history = run.history()
    waiting, due, *rest = curves.stays(history, life.task_id)
    assert (waiting.place, due.place) == (WAITING, DUE)
    assert due.start == pytest.approx(history.seconds(life.run_at))
    assert [stay.place for stay in rest] == [State.QUEUED, State.RUNNING, State.SUCCEEDED]
    (late,) = curves.latencies(history)
    assert late.seconds == pytest.approx(late.at - due.start)


@pytest.mark.parametrize(
    ("reason", "place"), [(Reason.LOST, DUE), (Reason.RELEASED, DUE), (Reason.FAILED, WAITING)]
)
def test_lost_attempt_is_due_immediately_and_failed_one_backs_off(
    reason: Reason, place: str
) -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim().end(reason)
    assert curves.stays(run.history(), life.task_id)[-1].place == place


def test_republished_hint_is_no_new_stay() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().republish().claim()
    places = [stay.place for stay in curves.stays(run.history(), life.task_id)]
    assert places == [DUE, State.QUEUED, State.RUNNING]


def test_empty_panels_say_why() -> None:
    drawn = timeline(RunModel(judge(Specimen().history())))
    assert [panel.empty for panel in drawn.panels] == [
        "no task was accepted",
        "no task was ever due",
        "no effect was applied",
    ]
    assert not drawn.incidents
    assert charts.quantile([], 0.5) is None


def test_path_stays_within_the_axis() -> None:
    drawn = charts.step_line(((0.0, 1), (5.0, 2)), Axis(0.0, 10.0), 2.0)
    assert drawn == "M0.0 100.0H0.0V50.0H500.0V0.0H1000.0"
    assert charts.step_area((), Axis(0.0, 1.0), 1.0) == ""
    assert Axis(0.0, 10.0).percent(99.0) == 100.0
    assert charts.dots([(1.0, 0.5)] * 1000, Axis(0.0, 10.0)) == "M100.0 50.0h0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.01234, "12.3 ms"), (0.9996, "1 s"), (12.345, "12.3 s"), (0.0, "0 ms")]
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
