"""What only the arena can see: hints that came too late, and what the roles say in their logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chaos.records import Event, Record, Sometimes, parse_instant

# What a role logs when the reply to a statement was lost or late (system/database.py).
_UNANSWERED = ("did not answer within", "broke while waiting for a reply")
_HINT = re.compile(r"^XADD \S*:hints:\S+ .*?\bid ([0-9a-f-]{36}) epoch (\d+)", re.IGNORECASE)
# Two clocks of one machine, read by two programs: closer than this is not called late.
_LATE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class SeenHint:
    """A hint as it reached Redis; ``at`` is Unix time by the server's clock."""

    at: float
    task_id: str
    epoch: int


class HintWatch:
    """Sees every hint that arrives at the server (MONITOR on a connection of its own)."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self.hints: list[SeenHint] = []

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch inside the block; a server that goes away is watched again when it is back."""
        task = asyncio.create_task(self._watch(), name="hint watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with Redis.from_url(self._url) as redis, redis.monitor() as monitor:
                    async for entry in monitor.listen():
                        self._see(entry["time"], entry["command"])
            await asyncio.sleep(0.1)

    def _see(self, at: float, command: str) -> None:
        if found := _HINT.match(command):
            self.hints.append(SeenHint(at, found[1], int(found[2])))


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
        "redis_given_up": lambda entry: "Redis: Timeout" in str(entry.get("error")),
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
