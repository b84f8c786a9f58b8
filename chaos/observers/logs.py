"""Observations only the arena can make: late hints, and events in the logs of the roles."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chaos.history.records import Event, Record, Sometimes, parse_instant
from holdfast.telemetry.event_names import ErrorCode, EventName

# Two programs read the clock of one machine; a smaller difference proves nothing.
_LATE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class SeenHint:
    """A hint that reached Redis; ``at`` is Unix time by the server's clock."""

    at: float
    task_id: str
    epoch: int


def late_hints(hints: Iterable[SeenHint], events: Iterable[Event]) -> list[SeenHint]:
    """Return the hints that reached Redis after their task had left their epoch."""
    left: dict[tuple[str, int], float] = {}
    for event in events:
        moment = parse_instant(event.at).timestamp()
        # Entering an epoch ends all lower ones.
        key = event.task_id, event.epoch - 1
        left[key] = min(moment, left.get(key, moment))
    never = float("inf")
    return [
        hint
        for hint in hints
        if left.get((hint.task_id, hint.epoch), never) < hint.at - _LATE_SECONDS
    ]


# The field, and its constant, by which a line of a role's log counts as an observation.
_LINES: Mapping[str, tuple[str, EventName | ErrorCode]] = MappingProxyType(
    {
        "statement_outcome_unknown": ("error_code", ErrorCode.OUTCOME_UNKNOWN),
        "claim_unknown": ("event_name", EventName.CLAIM_ALREADY_COMMITTED),
        "finish_unknown": ("event_name", EventName.FINISH_ALREADY_COMMITTED),
        "submit_unknown": ("event_name", EventName.SUBMIT_ALREADY_COMMITTED),
        "amnesia_healed": ("event_name", EventName.HINT_LOSS_DETECTED),
        "redis_given_up": ("error_code", ErrorCode.REDIS_TIMEOUT),
    }
)


def log_observations(logs: Path, since: str) -> list[Sometimes]:
    """Count the matching lines of each role's log from the instant ``since`` (ISO) on."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in _LINES}
    for log in sorted(logs.glob("*-*.log")):
        for entry in _entries(log):
            if str(entry.get("timestamp", "")) >= since:
                for name, (field, constant) in _LINES.items():
                    counts[name][log.stem] += entry.get(field) == constant
    return [
        Sometimes(name=name, held=bool(+found), evidence=dict(+found))
        for name, found in counts.items()
    ]


def observations(
    hints: Iterable[SeenHint], records: Iterable[Record], logs: Path, since: str
) -> list[Sometimes]:
    """Return all of these observations as records of the history."""
    events = [record for record in records if isinstance(record, Event)]
    late = late_hints(hints, events)
    seen = Sometimes(
        name="stale_hint_delivered",
        held=bool(late),
        evidence={"hints": len(late), "tasks": [hint.task_id for hint in late[:5]]},
    )
    return [seen, *log_observations(logs, since)]


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry
