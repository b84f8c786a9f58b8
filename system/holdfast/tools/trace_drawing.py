"""Draw spans for a terminal: a tree beside bars on one time axis. Pure."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.telemetry.spans import Branch, Span, SpanEvent, tree
from holdfast.tools.text_cells import cells, clean, cut, fit

FAULTS = "holdfast-chaos"
"""Service name of the spans of injected faults."""
WORKERS = "holdfast-worker"
WAITS = frozenset({"scheduled", "starved", "queued"})

_SERVICE_WIDTH = 9
_TIME_WIDTH = 7
_BARS_MIN = 16
_WORK, _WAIT, _INSTANT, _EVENT, _FAULT, _ONSET, _CROSSED = "━", "╌", "◆", "●", "▓", "┊", "┿"
_LEGEND = "  ".join(
    [
        f"{_WORK} work",
        f"{_WAIT} wait",
        f"{_INSTANT} instant",
        f"{_EVENT} event",
        f"{_FAULT} fault, began {_ONSET}",
    ]
)
_RED, _YELLOW, _DIM, _BOLD = 31, 33, 2, 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND, _SECOND, _MINUTE = 1_000, 1_000_000, 60_000_000
_HOUR, _DAY = 60 * _MINUTE, 24 * 60 * _MINUTE


def show(spans: Sequence[Span]) -> None:
    """Print the drawing as wide as the terminal; in colour only if stdout is one."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    drawing = draw(spans, shutil.get_terminal_size().columns, colour=colour)
    encoding = sys.stdout.encoding or "ascii"
    print(drawing.encode(encoding, errors="replace").decode(encoding))


def draw(spans: Sequence[Span], width: int, *, colour: bool = False) -> str:
    """Return the drawing: a heading, one row per span with its notes, a legend.

    No line exceeds ``width`` columns. Waits, events, errors, links and faults (spans of the service
    ``FAULTS``) are marked; the start of each fault is drawn through all bars.
    """
    if not spans:
        return cut("no spans", width)
    return "\n".join(_Drawing(spans, width, colour=colour).lines())


def short_time(microseconds: int) -> str:
    """Format a duration in at most 7 columns: ``850 µs``, ``4.10 ms``, ``3.21 s``, ``2m 05s``."""
    if microseconds < _MILLISECOND:
        return f"{microseconds} µs"
    if microseconds < _MINUTE:
        size, unit = (_MILLISECOND, "ms") if microseconds < _SECOND else (_SECOND, "s")
        number = microseconds / size
        return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"
    if microseconds < _HOUR:
        return f"{microseconds // _MINUTE}m {microseconds % _MINUTE // _SECOND:02}s"
    if microseconds < _DAY:
        return f"{microseconds // _HOUR}h {microseconds % _HOUR // _MINUTE:02}m"
    if microseconds < 100 * _DAY:
        return f"{microseconds // _DAY}d {microseconds % _DAY // _HOUR:02}h"
    return f"{microseconds // _DAY}d"


class _Drawing:
    """One drawing: its columns and its time axis."""

    def __init__(self, spans: Sequence[Span], width: int, *, colour: bool) -> None:
        self._spans = spans
        self._width = width
        self._colour = colour
        self._start = min(span.start for span in spans)
        self._total = max(1, max(map(_last_instant, spans)) - self._start)
        self._branches = tree(spans)
        fixed = _SERVICE_WIDTH + 2 * _TIME_WIDTH + 4
        names = max(2 * len(branch.last) + cells(_label(branch.span)) for branch in self._branches)
        self._name_width = max(8, min(names, (width - fixed) * 11 // 20))
        self._bar_width = width - fixed - self._name_width
        if self._bar_width < _BARS_MIN:  # too narrow for bars: numbers only
            self._name_width, self._bar_width = max(1, width - fixed), 0
        self._names = {(span.trace_id, span.span_id): _label(span) for span in spans}
        self._runners = {
            _attempt_of(span): clean(span.instance)
            for span in spans
            if span.service == WORKERS and span.instance
        }
        self._faults = {self._column(span.start) for span in spans if span.service == FAULTS}

    def lines(self) -> Iterator[str]:
        for line in self._summary():
            yield self._painted(cut(line, self._width), _BOLD)
        yield ""
        yield self._painted(cut(self._heading(), self._width), _DIM)
        for number, branch in enumerate(self._branches):
            yield self._row(branch)
            following = self._branches[number + 1 :][:1]
            has_children = any(len(child.last) > len(branch.last) for child in following)
            margin = f"{'':{_SERVICE_WIDTH}} {self._stem_below(branch, has_children=has_children)}"
            room = max(20, self._width - len(margin))
            for text, code in self._notes(branch.span):
                for line in textwrap.wrap(text, room, subsequent_indent="  "):
                    yield self._painted(cut(margin + line, self._width), code)
        if self._bar_width:
            yield ""
            yield self._painted(cut(_LEGEND, self._width), _DIM)

    def _summary(self) -> Iterator[str]:
        for trace in sorted({span.trace_id for span in self._spans}):
            yield f"trace {clean(trace)}"
        errors = sum(span.error for span in self._spans)
        counts = [_count(len(self._spans), "span"), *([_count(errors, "error")] if errors else [])]
        yield f"{', '.join(counts)}, {short_time(self._total)} from {_utc(self._start)}"

    def _heading(self) -> str:
        line = f"{fit('service', _SERVICE_WIDTH)} {fit('span', self._name_width)}"
        line += f" {'start':>{_TIME_WIDTH}} {'time':>{_TIME_WIDTH}}"
        if self._bar_width:
            middle, end = short_time(self._total // 2), short_time(self._total)
            half = self._bar_width // 2
            line += f" {fit('0', half)}{fit(middle, self._bar_width - half - len(end))}{end}"
        return line

    def _row(self, branch: Branch) -> str:
        span = branch.span
        service = fit(clean(span.service.removeprefix("holdfast-")), _SERVICE_WIDTH)
        name = fit(self._stem(branch) + _label(span), self._name_width)
        start, took = short_time(span.start - self._start), short_time(span.duration)
        times = f"{start:>{_TIME_WIDTH}} {took:>{_TIME_WIDTH}}"
        line = cut(f"{service} {name} {times} {self._bar(span)}".rstrip(), self._width)
        return self._painted(line, _colour_of(span))

    def _bar(self, span: Span) -> str:
        if not self._bar_width:
            return ""
        bar = [_ONSET if at in self._faults else " " for at in range(self._bar_width)]
        first, last = self._column(span.start), self._column(max(span.start, span.end - 1))
        stroke = _stroke(span)
        for at in range(first, last + 1):
            bar[at] = _CROSSED if at in self._faults and stroke == _WORK else stroke
        for event in span.events:
            bar[self._column(event.at)] = _EVENT
        return "".join(bar)

    def _column(self, at: int) -> int:
        """Return the column of an instant within the bars, clamped to their edges."""
        return max(0, min(self._bar_width - 1, (at - self._start) * self._bar_width // self._total))

    def _notes(self, span: Span) -> Iterator[tuple[str, int]]:
        if outcome := _outcome(span, self._runner(span)):
            yield outcome, _RED if span.error else _DIM
        for link in span.links:
            name = self._names.get((link.trace_id, link.span_id))
            where = f"after {name}" if name else f"see trace {clean(link.trace_id)}"
            yield f"↩ {where}", _DIM
        for event in sorted(span.events, key=lambda event: event.at):
            at = short_time(max(0, event.at - self._start))
            yield f"{_EVENT} {at} {_event_label(event)}", _RED if span.error else _DIM

    def _stem(self, branch: Branch) -> str:
        stem = _stem(branch.last)
        return self._room_left(stem[:-2]) + stem[-2:]

    def _stem_below(self, branch: Branch, *, has_children: bool) -> str:
        return self._room_left(_stems(branch.last)) + ("│ " if has_children else "  ")

    def _room_left(self, stem: str) -> str:
        """Shorten a deep stem on the left, so that names keep half of their column."""
        most = self._name_width // 2
        return stem if len(stem) <= most else "…" + stem[len(stem) - most + 1 :]

    def _runner(self, span: Span) -> str:
        """Return the process that ran an attempt, or "" if unknown.

        The attempt's own spans name it; the span of a reclaim does not.
        """
        return self._runners.get(_attempt_of(span), "")

    def _painted(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text


def _last_instant(span: Span) -> int:
    return max([span.start, span.end, *(event.at for event in span.events)])


def _colour_of(span: Span) -> int:
    if span.service == FAULTS:
        return _YELLOW
    if span.error:
        return _RED
    return _DIM if span.name in WAITS else 0


def _utc(microseconds: int) -> str:
    try:
        return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:  # a clock that is wrong by thousands of years
        return f"{microseconds} µs"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _stroke(span: Span) -> str:
    if span.service == FAULTS:
        return _FAULT
    if span.name in WAITS:
        return _WAIT
    return _WORK if span.duration > 0 else _INSTANT


def _attempt_of(span: Span) -> tuple[str, str]:
    attributes = span.attributes
    return str(attributes.get("holdfast.task.id")), str(attributes.get("holdfast.attempt"))


def _label(span: Span) -> str:
    attempt = span.attributes.get("holdfast.attempt") if span.name.startswith("process") else None
    return clean(span.name if attempt is None else f"{span.name} #{attempt}")


def _stem(last: tuple[bool, ...]) -> str:
    return _stems(last[:-1]) + ("└ " if last[-1] else "├ ") if last else ""


def _stems(last: Iterable[bool]) -> str:
    return "".join("  " if is_last else "│ " for is_last in last)


def _outcome(span: Span, runner: str) -> str:
    """Describe who ran an attempt and how it ended; for any other span, only its error."""
    attributes = span.attributes
    words = []
    if worker := attributes.get("holdfast.worker.id"):
        words.append(f"by {runner} ({worker})" if runner else f"by {worker}")
    if outcome := attributes.get("holdfast.outcome"):
        words.append(f"{outcome}".replace("_", " "))
    if span.error:
        what = attributes.get("error.type") or "error"
        why = attributes.get("otel.status_description")
        if what != outcome:
            words.append(f"✗ {what}: {why}" if why and why != what else f"✗ {what}")
    return clean(", ".join(words))


def _event_label(event: SpanEvent) -> str:
    attributes: Mapping[str, Any] = event.attributes
    words = [
        f"{key.removeprefix('holdfast.')}={value}" for key, value in sorted(attributes.items())
    ]
    return clean(f"{event.name} ({', '.join(words)})" if words else event.name)
