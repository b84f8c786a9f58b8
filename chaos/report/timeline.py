"""Build the timeline of a run: panels over one axis of arena seconds, with faults shaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from chaos.history.history import History
from chaos.history.records import Effect, Event
from chaos.report.curves import DUE
from chaos.report.injections import Injection, PlannedFault
from chaos.report.model import RunModel
from chaos.report.words import instant_of
from holdfast.model.lifecycle import Reason, State
from observability import charts
from observability.charts import Axis, Steps, Tick

_LEAST_LATENCY_SECONDS = 0.001
# More simultaneous faults than this look the same; short ones stay visible.
_SHADES = 3
_SHADE_LEAST_PERCENT = 0.3


@dataclass(frozen=True, slots=True)
class Layer:
    """A named path; ``style`` is its CSS class, ``last`` the value that the legend shows."""

    name: str
    style: str
    path: str
    last: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Layers on one scale, drawn in order; ``empty`` is shown instead where nothing is drawn."""

    title: str
    layers: tuple[Layer, ...]
    ticks: tuple[Tick, ...]
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """An injection, in per cent of the axis; ``room``: from its left end to the next one."""

    left: float
    wide: float
    room: float
    observed: bool
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """The injections of one planned fault."""

    name: str
    about: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Shade:
    """An interval during which ``depth`` injections (at most 3 are distinguished) were active."""

    left: float
    wide: float
    depth: int


@dataclass(frozen=True, slots=True)
class Flag:
    """A vertical line at an instant."""

    percent: float
    style: str
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """All panels on the axis, and the curves whose values the pointer shows."""

    axis: Axis
    ticks: tuple[Tick, ...]
    flags: tuple[Flag, ...]
    shades: tuple[Shade, ...]
    lanes: tuple[Lane, ...]
    incidents: tuple[Layer, ...]
    panels: tuple[Panel, ...]
    curves: dict[str, Steps]


def timeline(model: RunModel) -> Timeline:
    """Build the timeline of a judged run."""
    axis = _axis(model.history)
    shown = {
        "accepted": model.accepted,
        "effects": model.effects,
        "running": model.depth[State.RUNNING],
        "queued": model.depth[State.QUEUED],
        "due": model.depth[DUE],
    }
    thin = {name: charts.thinned(curve, axis) for name, curve in shown.items()}
    return Timeline(
        axis=axis,
        ticks=tuple(
            Tick(axis.percent(at), f"{at:g}") for at in charts.ticks(axis.start, axis.end, 12)
        ),
        flags=tuple(_flags(model, axis)),
        shades=tuple(_shades(model, axis)),
        lanes=tuple(_lane(fault, axis) for fault in model.planned_faults),
        incidents=tuple(_incidents(model, axis)),
        panels=(_progress(thin, axis), _depth(shown, axis), _latency(model, axis)),
        curves=thin,
    )


def _axis(history: History) -> Axis:
    """Span the axis from the first to the last record; the load begins at 0."""
    times = [0.0, *history.phases.values()]
    times += [
        half.at for op in history.operations.values() for half in (op.invoke, op.completion) if half
    ]
    times += [record.at for records in history.faults.values() for record in records]
    for events in history.events.values():
        times += [history.seconds(event.at) for event in (events[0], events[-1])]
    return Axis(min(times), max(*times, min(times) + 1.0))


def _flags(model: RunModel, axis: Axis) -> Iterator[Flag]:
    phases = model.history.phases
    healed, drained = phases.get("healed"), phases.get("drained")
    if healed is not None:
        yield Flag(axis.percent(healed), "healed", f"healed {healed:.1f} s")
        recovery = model.judgement.meters.recovery_seconds
        if recovery is not None:
            text = f"all due done +{recovery:.1f} s"
            yield Flag(axis.percent(healed + recovery), "done", text)
    if drained is not None:
        yield Flag(axis.percent(drained), "drained", f"drained {drained:.1f} s")


def _shades(model: RunModel, axis: Axis) -> Iterator[Shade]:
    covered = [
        (left, max(axis.percent(injection.until(axis.end)), round(left + _SHADE_LEAST_PERCENT, 2)))
        for injection in model.injections
        for left in [axis.percent(injection.start)]
    ]
    edges = sorted({edge for ends in covered for edge in ends})
    for left, right in pairwise(edges):
        depth = sum(start <= left and right <= end for start, end in covered)
        if depth:
            yield Shade(left, round(right - left, 2), min(depth, _SHADES))


def _lane(plan: PlannedFault, axis: Axis) -> Lane:
    observed = f"observed {plan.observed}/{plan.times}" if plan.times else "not planned"
    times = f" x{plan.times}" if plan.times > 1 else ""
    about = f"{plan.fault}{times} on {plan.aim} · {observed}"
    lefts = [axis.percent(injection.start) for injection in plan.injections]
    bars = [
        _bar(injection, axis, following)
        for injection, following in zip(plan.injections, [*lefts, 100.0][1:], strict=True)
    ]
    return Lane(plan.name, about, tuple(bars))


def _bar(injection: Injection, axis: Axis, following: float) -> Bar:
    left = axis.percent(injection.start)
    end = injection.until(axis.end)
    flight = injection.in_flight
    label = ", ".join(injection.targets) + (f" · {flight.open} in flight" if flight else "")
    observed = "observed" if injection.observed is not None else "NOT OBSERVED"
    until = "never ended" if injection.end is None else f"{injection.end:.2f} s"
    title = f"{injection.fault_id}: {label}; {injection.start:.2f} s to {until}; {observed}"
    wide = round(axis.percent(end) - left, 2)
    return Bar(left, wide, round(following - left, 2), injection.observed is not None, label, title)


def _incidents(model: RunModel, axis: Axis) -> Iterator[Layer]:
    history = model.history
    events = [event for rows in history.events.values() for event in rows]

    def reasons(*wanted: Reason) -> list[float]:
        return [history.seconds(event.at) for event in events if event.reason in wanted]

    violated = [
        at
        for violation in model.judgement.violations
        if violation.invariant.startswith("S")
        for record in violation.evidence[-1:]
        if isinstance(record, Event | Effect) and (at := instant_of(history, record)) is not None
    ]
    refused = [history.seconds(w.at) for rows in history.stale_writes.values() for w in rows]
    twice = [c.at for calls in history.sink_calls.values() for c in calls if not c.applied]
    lanes: tuple[tuple[str, str, list[float]], ...] = (
        ("invariant violated", "bad", violated),
        ("attempt lost", "warn", reasons(Reason.LOST)),
        ("attempt failed or timed out", "mild", reasons(Reason.FAILED, Reason.TIMED_OUT)),
        ("attempt released", "mild", reasons(Reason.RELEASED)),
        ("stale write refused", "good", refused),
        ("duplicate suppressed", "good", twice),
        ("hint republished", "mild", reasons(Reason.REPUBLISHED)),
    )
    for name, style, times in lanes:
        if times:
            path = charts.dots(((at, 0.5) for at in times), axis)
            yield Layer(name, style, path, str(len(times)))


def _progress(shown: dict[str, Steps], axis: Axis) -> Panel:
    top = float(max(_peak(shown["accepted"]), _peak(shown["effects"]), 1))
    layers = [
        Layer(
            "accepted",
            "accepted line",
            charts.step_line(shown["accepted"], axis, top),
            _last(shown["accepted"]),
        ),
        Layer(
            "effects",
            "effects line",
            charts.step_line(shown["effects"], axis, top),
            _last(shown["effects"]),
        ),
    ]
    empty = "" if shown["accepted"] or shown["effects"] else "no task was accepted"
    return Panel("Tasks accepted and effects applied", tuple(layers), _counts(top), empty)


def _depth(shown: dict[str, Steps], axis: Axis) -> Panel:
    names = ("running", "queued", "due")
    piled = charts.stacked([shown[name] for name in names])
    piled = [charts.thinned(each, axis) for each in piled]
    top = float(max(1, *(_peak(curve) for curve in piled)))
    labels = {"running": "RUNNING", "queued": "QUEUED", "due": "due, not yet dispatched"}
    layers = [
        Layer(
            labels[name],
            f"{name} area",
            charts.step_area(curve, axis, top),
            f"at most {_peak(shown[name])}",
        )
        for name, curve in zip(names, piled, strict=True)
    ]
    empty = "" if _peak(piled[-1]) else "no task was ever due"
    return Panel("Tasks in flight", tuple(reversed(layers)), _counts(top), empty)


def _latency(model: RunModel, axis: Axis) -> Panel:
    """Draw the latencies on a logarithmic scale of whole decades."""
    found = model.latencies
    title = "From due to effect"
    if not found:
        return Panel(title, (), (), "no effect was applied")
    seconds = [max(latency.seconds, _LEAST_LATENCY_SECONDS) for latency in found]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    high = max(high, low + 1)
    points = (
        (latency.at, (math.log10(value) - low) / (high - low))
        for latency, value in zip(found, seconds, strict=True)
    )
    shares = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
    last = " · ".join(f"{name} {duration(charts.quantile(seconds, q) or 0)}" for name, q in shares)
    marks = tuple(
        Tick(round(100 * (n - low) / (high - low), 2), duration(10.0**n))
        for n in range(low, high + 1)
    )
    return Panel(title, (Layer("each task", "dots", charts.dots(points, axis), last),), marks)


def duration(seconds: float) -> str:
    """Format seconds with at most three digits, in ms below one second."""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _counts(top: float) -> tuple[Tick, ...]:
    found = charts.ticks(0.0, top, 4)
    return tuple(Tick(round(100 * n / top, 2), f"{n:g}") for n in found if n == int(n))


def _peak(curve: Iterable[tuple[float, int]]) -> int:
    return max((value for _, value in curve), default=0)


def _last(curve: Steps) -> str:
    return str(curve[-1][1]) if curve else "0"
