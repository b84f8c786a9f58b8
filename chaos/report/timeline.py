"""The timeline of a run: panels on one axis of arena seconds, and what is shaded behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from chaos.history import History
from chaos.invariants.liveness import recovery_seconds
from chaos.records import Effect, Event
from chaos.report import axis as axes
from chaos.report import curves
from chaos.report.axis import Axis
from chaos.report.curves import DUE, Curve
from chaos.report.strikes import Planned, Strike, planned, strikes
from chaos.report.words import moment
from chaos.verdict import Judgement
from system.lifecycle import Reason, State

_LEAST_LATENCY_SECONDS = 0.001
# More strikes at once are shaded like so many; a short one is still to be seen.
_SHADES = 3
_SHADE_LEAST_PERCENT = 0.3


@dataclass(frozen=True, slots=True)
class Layer:
    """A path with its name; ``style`` is its CSS class, ``last`` what the legend says of it."""

    name: str
    style: str
    path: str
    last: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at so many per cent of the axis (from the left, or from the bottom)."""

    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Layers with one scale, drawn in order."""

    title: str
    layers: tuple[Layer, ...]
    ticks: tuple[Tick, ...]
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A strike from ``left``, so many per cent ``wide``; ``room``: per cent until the next one."""

    left: float
    wide: float
    room: float
    felt: bool
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """The strikes of one plan."""

    name: str
    about: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Shade:
    """A stretch during which ``depth`` strikes (at most 3 are told apart) lasted at once."""

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
    """Everything that stands on the axis, and the curves themselves for whoever points at it."""

    axis: Axis
    ticks: tuple[Tick, ...]
    flags: tuple[Flag, ...]
    shades: tuple[Shade, ...]
    lanes: tuple[Lane, ...]
    incidents: tuple[Layer, ...]
    panels: tuple[Panel, ...]
    curves: dict[str, Curve]


def timeline(judgement: Judgement) -> Timeline:
    """The timeline of a judged run."""
    history = judgement.history
    axis = _axis(history)
    depth = curves.depth(history)
    shown = {
        "accepted": curves.accepted(history),
        "effects": curves.effects(history),
        "running": depth[State.RUNNING],
        "queued": depth[State.QUEUED],
        "due": depth[DUE],
    }
    thin = {
        name: curves.thinned(c, axis.start, axis.end, axes.COLUMNS) for name, c in shown.items()
    }
    return Timeline(
        axis=axis,
        ticks=tuple(
            Tick(axis.percent(at), f"{at:g}") for at in axes.ticks(axis.start, axis.end, 12)
        ),
        flags=tuple(_flags(history, axis)),
        shades=tuple(_shades(history, axis)),
        lanes=tuple(_lane(plan, axis) for plan in planned(history)),
        incidents=tuple(_incidents(judgement, axis)),
        panels=(_progress(thin, axis), _depth(shown, axis), _latency(history, axis)),
        curves=thin,
    )


def _axis(history: History) -> Axis:
    """From the first to the last thing that happened; the load begins at 0."""
    times = [0.0, *history.phases.values()]
    times += [
        half.at for op in history.operations.values() for half in (op.invoke, op.completion) if half
    ]
    times += [record.at for records in history.faults.values() for record in records]
    for events in history.events.values():
        times += [history.seconds(event.at) for event in (events[0], events[-1])]
    return Axis(min(times), max(*times, min(times) + 1.0))


def _flags(history: History, axis: Axis) -> Iterator[Flag]:
    healed, drained = history.phases.get("healed"), history.phases.get("drained")
    if healed is not None:
        yield Flag(axis.percent(healed), "healed", f"healed {healed:.1f} s")
        recovery = recovery_seconds(history) if drained is not None else None
        if recovery is not None:
            text = f"all due done +{recovery:.1f} s"
            yield Flag(axis.percent(healed + recovery), "done", text)
    if drained is not None:
        yield Flag(axis.percent(drained), "drained", f"drained {drained:.1f} s")


def _shades(history: History, axis: Axis) -> Iterator[Shade]:
    covered = [
        (left, max(axis.percent(strike.until(axis.end)), round(left + _SHADE_LEAST_PERCENT, 2)))
        for strike in strikes(history)
        for left in [axis.percent(strike.start)]
    ]
    edges = sorted({edge for ends in covered for edge in ends})
    for left, right in pairwise(edges):
        depth = sum(start <= left and right <= end for start, end in covered)
        if depth:
            yield Shade(left, round(right - left, 2), min(depth, _SHADES))


def _lane(plan: Planned, axis: Axis) -> Lane:
    felt = f"felt {plan.felt}/{plan.times}" if plan.times else "not planned"
    times = f" x{plan.times}" if plan.times > 1 else ""
    about = f"{plan.fault}{times} on {plan.aim} · {felt}"
    lefts = [axis.percent(strike.start) for strike in plan.strikes]
    bars = [
        _bar(strike, axis, following)
        for strike, following in zip(plan.strikes, [*lefts, 100.0][1:], strict=True)
    ]
    return Lane(plan.name, about, tuple(bars))


def _bar(strike: Strike, axis: Axis, following: float) -> Bar:
    left = axis.percent(strike.start)
    end = strike.until(axis.end)
    flight = strike.in_flight
    label = ", ".join(strike.targets) + (f" · {flight.open} in flight" if flight else "")
    felt = "felt" if strike.felt is not None else "NOT FELT"
    until = "never ended" if strike.end is None else f"{strike.end:.2f} s"
    title = f"{strike.fault_id}: {label}; {strike.start:.2f} s to {until}; {felt}"
    wide = round(axis.percent(end) - left, 2)
    return Bar(left, wide, round(following - left, 2), strike.felt is not None, label, title)


def _incidents(judgement: Judgement, axis: Axis) -> Iterator[Layer]:
    history = judgement.history
    events = [event for rows in history.events.values() for event in rows]

    def reasons(*wanted: Reason) -> list[float]:
        return [history.seconds(event.at) for event in events if event.reason in wanted]

    violated = [
        at
        for violation in judgement.violations
        if violation.invariant.startswith("S")
        for record in violation.evidence[-1:]
        if isinstance(record, Event | Effect) and (at := moment(history, record)) is not None
    ]
    refused = [history.seconds(w.at) for rows in history.stale_writes.values() for w in rows]
    twice = [c.at for calls in history.sink_calls.values() for c in calls if not c.applied]
    lanes: tuple[tuple[str, str, list[float]], ...] = (
        ("invariant violated", "bad", violated),
        ("attempt lost", "warn", reasons(Reason.LOST)),
        ("attempt failed or timed out", "mild", reasons(Reason.FAILED, Reason.TIMED_OUT)),
        ("handed back", "mild", reasons(Reason.HANDED_BACK)),
        ("stale write refused", "good", refused),
        ("duplicate suppressed", "good", twice),
        ("hint published again", "mild", reasons(Reason.REPUBLISHED)),
    )
    for name, style, times in lanes:
        if times:
            path = axes.dots(((at, 0.5) for at in times), axis)
            yield Layer(name, style, path, str(len(times)))


def _progress(shown: dict[str, Curve], axis: Axis) -> Panel:
    top = float(max(_peak(shown["accepted"]), _peak(shown["effects"]), 1))
    layers = [
        Layer(
            "accepted",
            "accepted line",
            axes.line(shown["accepted"], axis, top),
            _last(shown["accepted"]),
        ),
        Layer(
            "effects",
            "effects line",
            axes.line(shown["effects"], axis, top),
            _last(shown["effects"]),
        ),
    ]
    empty = "" if shown["accepted"] or shown["effects"] else "nothing was accepted"
    return Panel("Tasks accepted and effects applied", tuple(layers), _counts(top), empty)


def _depth(shown: dict[str, Curve], axis: Axis) -> Panel:
    names = ("running", "queued", "due")
    piled = axes.stacked([shown[name] for name in names])
    piled = [curves.thinned(each, axis.start, axis.end, axes.COLUMNS) for each in piled]
    top = float(max(1, *(_peak(curve) for curve in piled)))
    said = {"running": "RUNNING", "queued": "QUEUED", "due": "due, not yet dispatched"}
    layers = [
        Layer(
            said[name], f"{name} area", axes.area(curve, axis, top), f"at most {_peak(shown[name])}"
        )
        for name, curve in zip(names, piled, strict=True)
    ]
    empty = "" if _peak(piled[-1]) else "no task was ever due"
    return Panel("Tasks in flight", tuple(reversed(layers)), _counts(top), empty)


def _latency(history: History, axis: Axis) -> Panel:
    """On a logarithmic scale of whole decades."""
    found = curves.latencies(history)
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
    told = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
    last = " · ".join(f"{name} {duration(curves.quantile(seconds, q) or 0)}" for name, q in told)
    marks = tuple(
        Tick(round(100 * (n - low) / (high - low), 2), duration(10.0**n))
        for n in range(low, high + 1)
    )
    return Panel(title, (Layer("each task", "dots", axes.dots(points, axis), last),), marks)


def duration(seconds: float) -> str:
    """Seconds with three digits at most, in ms below one."""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _counts(top: float) -> tuple[Tick, ...]:
    found = axes.ticks(0.0, top, 4)
    return tuple(Tick(round(100 * n / top, 2), f"{n:g}") for n in found if n == int(n))


def _peak(curve: Iterable[tuple[float, int]]) -> int:
    return max((value for _, value in curve), default=0)


def _last(curve: Curve) -> str:
    return str(curve[-1][1]) if curve else "0"
