"""The drawing of a trace: golden text, and arbitrary spans."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from examples import examples
from holdfast.telemetry.spans import Link, Span, SpanEvent, family, tree
from holdfast.tools.text_cells import cells
from holdfast.tools.trace_drawing import FAULTS, draw, short_time

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BATCH = "7" * 32
BEGAN = 1_800_000_000_000_000
GOLDEN = """\
trace 4bf92f3577b34da6a3ce929d0e0e4736
12 spans, 1 error, 6.13 s from 2027-01-15 08:00:00 UTC

service   span                     start    time 0              3.06 s    6.13 s
api       POST /tasks/              0 µs 4.10 ms ━    ┊
api       └ create default        700 µs 2.90 ms ━    ┊
scheduler   ├ starved            3.60 ms 9.00 ms ╌    ┊
scheduler   ├ send default       12.6 ms 1.50 ms ━    ┊
worker      ├ queued             13.0 ms 4.00 ms ╌    ┊
scheduler   ├ process default #1 17.0 ms  3.10 s ●━━━━┿━━━━━━━━━●
            │   by worker-1 (id-1), lease lost
            │   ↩ see trace 77777777777777777777777777777777
            │   ● 17.0 ms claimed
            │   ● 3.12 s taken back (by=scheduler-2, reason=lease lost)
            │   ● 3.12 s retry scheduled (delay_seconds=1.0)
chaos       ├ kill worker-1       1.00 s    0 µs      ▓
scheduler   ├ scheduled           3.12 s  1.00 s      ┊         ╌╌╌╌╌╌
scheduler   ├ send default        4.12 s 1.50 ms      ┊              ━
worker      ├ queued              4.12 s 4.00 ms      ┊              ╌
worker      └ process default #2  4.12 s  2.00 s      ┊              ●━━━━━━━━━━
              │ by worker-2 (id-2), succeeded
              │ ↩ after process default #1
              │ ● 4.12 s claimed
worker        └ finish            6.12 s 6.00 ms      ┊                        ━

━ work  ╌ wait  ◆ instant  ● event  ▓ fault, began ┊"""


def _span(name: str, service: str, at: int, took: int, *ids: str, **more: Any) -> Span:
    span_id, parent_id = (*ids, None)[:2] if ids else (f"{at:016x}{name}", None)
    assert span_id is not None
    start = BEGAN + at
    return Span(TRACE, span_id, name, f"holdfast-{service}", start, took, parent_id, **more)


def _under_create(name: str, service: str, at: int, took: int, **more: Any) -> Span:
    return _span(name, service, at, took, more.pop("span_id", f"{name}{at}"), "create", **more)


def _attempt(number: int) -> dict[str, Any]:
    return {"holdfast.attempt": number}


def retried_after_a_kill() -> list[Span]:
    claimed, taken_back = BEGAN + 17_000, BEGAN + 3_117_000
    return [
        _span("POST /tasks/", "api", 0, 4_100, "post"),
        _span("create default", "api", 700, 2_900, "create", "post"),
        _under_create("starved", "scheduler", 3_600, 9_000),
        _under_create("send default", "scheduler", 12_600, 1_500, attributes=_attempt(1)),
        _under_create(
            "queued", "worker", 13_000, 4_000, instance="worker-1", attributes=_attempt(1)
        ),
        _under_create(
            "process default",
            "scheduler",
            17_000,
            3_100_000,
            span_id="first",
            error=True,
            attributes={
                "holdfast.worker.id": "id-1",
                "holdfast.outcome": "lease_lost",
                "error.type": "lease_lost",
            }
            | _attempt(1),
            links=[Link(BATCH, "1")],
            events=[
                SpanEvent("claimed", claimed),
                SpanEvent("taken back", taken_back, {"reason": "lease lost", "by": "scheduler-2"}),
                SpanEvent("retry scheduled", taken_back, {"delay_seconds": 1.0}),
            ],
        ),
        _under_create("kill worker-1", "chaos", 1_000_000, 0),
        _under_create("scheduled", "scheduler", 3_117_000, 1_000_000),
        _under_create("send default", "scheduler", 4_120_000, 1_500, attributes=_attempt(2)),
        _under_create(
            "queued", "worker", 4_121_000, 4_000, instance="worker-2", attributes=_attempt(2)
        ),
        _under_create(
            "process default",
            "worker",
            4_125_000,
            2_001_000,
            span_id="second",
            instance="worker-2",
            attributes={"holdfast.worker.id": "id-2", "holdfast.outcome": "succeeded"}
            | _attempt(2),
            links=[Link(TRACE, "first")],
            events=[SpanEvent("claimed", BEGAN + 4_125_000)],
        ),
        _span("finish", "worker", 6_120_000, 6_000, "finish", "second"),
    ]


def test_task_retried_after_a_kill_at_80_columns() -> None:
    assert draw(retried_after_a_kill(), 80) == GOLDEN


def test_terminal_output_adds_only_colours() -> None:
    coloured = draw(retried_after_a_kill(), 80, colour=True)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == GOLDEN
    red = [line for line in coloured.splitlines() if line.startswith("\x1b[31m")]
    assert any("process default #1" in line for line in red)


def test_narrow_terminal_gets_numbers_without_bars() -> None:
    narrow = draw(retried_after_a_kill(), 50)
    assert "━" not in narrow
    assert "process default #2" in narrow


def test_drawing_does_not_depend_on_the_order_of_spans() -> None:
    assert draw(retried_after_a_kill()[::-1], 80) == GOLDEN


def test_no_spans() -> None:
    assert draw([], 80) == "no spans"


def test_control_characters_are_not_printed() -> None:
    drawn = draw([_span("evil\x1b[2J\nname\r", "api", 0, 1)], 80)
    assert "evil?[2J?name?" in drawn
    assert "\x1b" not in drawn


def test_orphans_and_parent_cycles_are_drawn() -> None:
    spans = [
        _span("orphan", "api", 5, 1, "orphan", "missing"),
        _span("hen", "api", 1, 1, "hen", "egg"),
        _span("egg", "api", 2, 1, "egg", "hen"),
        _span("own parent", "api", 3, 1, "self", "self"),
    ]
    names = [(branch.span.name, len(branch.last)) for branch in tree(spans)]
    assert names == [("orphan", 0), ("hen", 0), ("egg", 1), ("own parent", 0)]


def test_spans_of_one_task_in_a_trace_of_many() -> None:
    spans = [
        _span("order", "shop", 0, 9, "order"),
        _span("create default", "api", 1, 1, "one", "order"),
        _span("process default", "worker", 2, 1, "attempt", "one"),
        _span("create default", "api", 1, 1, "two", "order"),
        _span("process default", "worker", 2, 1, "other", "two"),
        _span("queued", "worker", 2, 1, "queued", "context only"),
    ]
    assert [span.span_id for span in family(spans, "one")] == ["order", "one", "attempt"]
    assert [span.span_id for span in family(spans, "context only")] == ["queued"]


@pytest.mark.parametrize(
    ("microseconds", "expected"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (4_100, "4.10 ms"),
        (999_999, "1000 ms"),
        (61_000_000, "1m 01s"),
        (3_723_000_000, "1h 02m"),
        (90_000_000_000, "1d 01h"),
        (3650 * 86_400_000_000, "3650d"),
    ],
)
def test_times(microseconds: int, expected: str) -> None:
    assert short_time(microseconds) == expected


@given(st.integers(0, 9_000 * 86_400_000_000))
def test_duration_fits_its_column(microseconds: int) -> None:
    assert len(short_time(microseconds)) <= 7


SLOW = examples(60, suppress_health_check=[HealthCheck.too_slow])
IDS = st.sampled_from([f"{number:02}" for number in range(6)])
NAMES = st.text(max_size=8) | st.sampled_from(["scheduled", "queued", "process 漢字", "e\u0301"])
INSTANTS = st.integers(0, 2**62)
EVENTS = st.builds(SpanEvent, NAMES, INSTANTS, st.dictionaries(NAMES, NAMES, max_size=1))
ATTRIBUTES = st.sampled_from(["holdfast.attempt", "holdfast.worker.id", "error.type"])
SPANS = st.builds(
    Span,
    trace_id=st.sampled_from([TRACE, BATCH]),
    span_id=IDS,
    name=NAMES,
    service=st.sampled_from(["holdfast-api", FAULTS]) | NAMES,
    start=INSTANTS,
    duration=st.integers(0, 2**62),
    parent_id=st.none() | IDS,
    error=st.booleans(),
    attributes=st.dictionaries(ATTRIBUTES, NAMES, max_size=1),
    events=st.lists(EVENTS, max_size=1),
    links=st.lists(st.builds(Link, st.sampled_from([TRACE, BATCH]), IDS), max_size=1),
)


@SLOW
@given(st.lists(SPANS, min_size=1, max_size=8), st.integers(1, 200))
def test_any_spans_are_drawn_within_the_width(spans: list[Span], width: int) -> None:
    assert max(map(cells, draw(spans, width).split("\n"))) <= width


@SLOW
@given(st.lists(SPANS, max_size=8))
def test_tree_has_every_span_once_below_its_parent(spans: list[Span]) -> None:
    branches = tree(spans)
    assert sorted(id(branch.span) for branch in branches) == sorted(map(id, spans))
    path: list[Span] = []
    for branch in branches:
        path[len(branch.last) :] = [branch.span]
        if branch.last:
            assert path[len(branch.last) - 1].span_id == branch.span.parent_id


@SLOW
@given(st.lists(SPANS, min_size=1, max_size=8))
def test_every_span_has_one_row(spans: list[Span]) -> None:
    named = [
        Span(
            TRACE,
            span.span_id,
            f"<{number}>",
            "holdfast-api",
            span.start,
            span.duration,
            span.parent_id,
        )
        for number, span in enumerate(spans)
    ]
    drawn = draw(named, 120)
    assert [drawn.count(f"<{number}>") for number in range(len(named))] == [1] * len(named)


def test_tree_of_any_depth() -> None:
    chain = [
        _span(f"<{depth}>", "api", depth, 1, f"{depth}", f"{depth - 1}") for depth in range(400)
    ]
    drawn = draw(chain, 100)
    assert all(f"<{depth}>" in drawn for depth in range(400))
    assert max(map(cells, drawn.split("\n"))) <= 100
