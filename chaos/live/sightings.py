"""What only the arena can see: hints that came too late, statements that got no answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

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


def unanswered_statements(logs: Path, actors: Iterable[str]) -> dict[str, int]:
    """How often each actor waited in vain for the reply to a statement; none: left out."""
    counts = {}
    for actor in actors:
        log = logs / f"{actor}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if count := sum(_is_unanswered(line) for line in lines):
            counts[actor] = count
    return counts


def sightings(hints: Iterable[SeenHint], records: Iterable[Record], logs: Path) -> list[Sometimes]:
    """Both as records of the history."""
    events = [record for record in records if isinstance(record, Event)]
    late = late_hints(hints, events)
    actors = sorted(path.stem for path in logs.glob("*-*.log"))
    unanswered = unanswered_statements(logs, actors)
    return [
        Sometimes(
            name="stale_hint_delivered",
            held=bool(late),
            evidence={"hints": len(late), "tasks": [hint.task_id for hint in late[:5]]},
        ),
        Sometimes(name="statement_outcome_unknown", held=bool(unanswered), evidence={**unanswered}),
    ]


def _is_unanswered(line: str) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    error = entry.get("error") if isinstance(entry, dict) else None
    return isinstance(error, str) and any(text in error for text in _UNANSWERED)
