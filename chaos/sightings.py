"""What only the arena can see: hints that came too late, and what the roles say in their logs."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chaos.records import Event, Record, Sometimes, parse_instant

# What a role logs when the reply to a statement was lost or late (system/database.py).
_UNANSWERED = ("did not answer within", "broke while waiting for a reply")
# Two clocks of one machine, read by two programs: closer than this is not called late.
_LATE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class SeenHint:
    """A hint as it reached Redis; ``at`` is Unix time by the server's clock."""

    at: float
    task_id: str
    epoch: int


def late_hints(hints: Iterable[SeenHint], events: Iterable[Event]) -> list[SeenHint]:
    """The hints whose epoch was already gone when they reached Redis."""
    left: dict[tuple[str, int], float] = {}
    for event in events:
        moment = parse_instant(event.at).timestamp()
        # Entering an epoch ends all those below it.
        key = event.task_id, event.epoch - 1
        left[key] = min(moment, left.get(key, moment))
    never = float("inf")
    return [
        hint
        for hint in hints
        if left.get((hint.task_id, hint.epoch), never) < hint.at - _LATE_SECONDS
    ]


def _unanswered(entry: Mapping[str, Any]) -> bool:
    return any(text in str(entry.get("error")) for text in _UNANSWERED)


def _says(event: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda entry: entry.get("event") == event


# What a line of a role's log must be to count.
_LINES: Mapping[str, Callable[[Mapping[str, Any]], bool]] = MappingProxyType(
    {
        "statement_outcome_unknown": _unanswered,
        "claim_unknown": _says("claim of unknown outcome was committed"),
        "finish_unknown": _says("finish of unknown outcome was committed"),
        "submit_unknown": _says("submit of unknown outcome was committed"),
        "amnesia_healed": _says("redis is empty, publishing all hints again"),
        "redis_given_up": lambda entry: "Redis: no answer" in str(entry.get("error")),
    }
)


def log_sightings(logs: Path, since: str) -> list[Sometimes]:
    """How often each role said each of them in its log, from the instant ``since`` (ISO) on."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in _LINES}
    for log in sorted(logs.glob("*-*.log")):
        for entry in _entries(log):
            if str(entry.get("timestamp", "")) >= since:
                for name, is_one in _LINES.items():
                    counts[name][log.stem] += is_one(entry)
    return [
        Sometimes(name=name, held=bool(+found), evidence=dict(+found))
        for name, found in counts.items()
    ]


def sightings(
    hints: Iterable[SeenHint], records: Iterable[Record], logs: Path, since: str
) -> list[Sometimes]:
    """All of them as records of the history."""
    events = [record for record in records if isinstance(record, Event)]
    late = late_hints(hints, events)
    seen = Sometimes(
        name="stale_hint_delivered",
        held=bool(late),
        evidence={"hints": len(late), "tasks": [hint.task_id for hint in late[:5]]},
    )
    return [seen, *log_sightings(logs, since)]


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry
