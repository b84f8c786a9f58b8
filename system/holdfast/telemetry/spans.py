"""Recorded spans as values, and their tree. All times are whole microseconds since the epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to a span, possibly of another trace."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """An event within a span."""

    name: str
    at: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Ids are lower-case hex; ``instance`` is the process of ``service``."""

    trace_id: str
    span_id: str
    name: str
    service: str
    start: int
    duration: int
    parent_id: str | None = None
    instance: str = ""
    error: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[SpanEvent] = ()
    links: Sequence[Link] = ()

    @property
    def end(self) -> int:
        return self.start + self.duration


@dataclass(frozen=True, slots=True)
class Branch:
    """A span with its position in the tree.

    ``last[n]``: whether its ancestor at depth n + 1 is the last child of its parent; the last entry
    is about the span itself. Empty for a root.
    """

    span: Span
    last: tuple[bool, ...]


def tree(spans: Iterable[Span]) -> list[Branch]:
    """Return every span once, parents before children, siblings ordered by start.

    A span whose parent is missing, or that is part of a cycle of parents, becomes a root.
    """
    ordered = sorted(spans, key=lambda span: (span.start, -span.duration, span.span_id))
    ids = {span.span_id for span in ordered}
    children: dict[str, list[int]] = defaultdict(list)
    for number, span in enumerate(ordered):
        if span.parent_id in ids and span.parent_id is not None:
            children[span.parent_id].append(number)
    roots = [number for number, span in enumerate(ordered) if span.parent_id not in ids]
    branches: list[Branch] = []
    seen: set[int] = set()
    for root in [*roots, *range(len(ordered))]:  # spans unreachable from a root form a cycle
        waiting: list[tuple[int, tuple[bool, ...]]] = [(root, ())]
        while waiting:
            number, last = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            branches.append(Branch(ordered[number], last))
            below = [child for child in children[ordered[number].span_id] if child not in seen]
            waiting += [(child, (*last, child == below[-1])) for child in reversed(below)]
    return branches


def family(spans: Sequence[Span], span_id: str) -> list[Span]:
    """Return the ancestors of ``span_id``, the span and its descendants: a part of its trace.

    ``span_id`` itself may be missing: a process may create a context and export no span for it.
    """
    parents = {span.span_id: span.parent_id for span in spans}
    children: dict[str | None, list[str]] = defaultdict(list)
    for span in spans:
        children[span.parent_id].append(span.span_id)
    ancestors: set[str | None] = set()
    parent = parents.get(span_id)
    while parent is not None and parent not in ancestors:
        ancestors.add(parent)
        parent = parents.get(parent)
    below, waiting = set(), [span_id]
    while waiting:
        one = waiting.pop()
        if one not in below:
            below.add(one)
            waiting += children[one]
    wanted = below | ancestors
    return [span for span in spans if span.span_id in wanted]
