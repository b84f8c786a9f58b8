"""Bad histories of what Redis holds at rest: S29, and doubts where it was not read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bad_histories import done, refused
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import ArenaName, PhaseStart, Run
from chaos.history.rest import HintsAtRest, QueueHints, Scrape

PAUSE: dict[str, Any] = {"name": "stop", "fault": "pause", "target": "worker-1", "for": 1}
EMPTY = QueueHints(queue="default", entries=0, pending=0)


def rest(run: Specimen, waited: float, *queues: QueueHints) -> Specimen:
    """Let the only task succeed, and Redis hold these hints after this time."""
    done(run)
    run.records.append(HintsAtRest(at=run.tick(), waited_seconds=waited, queues=queues))
    return run


def paused() -> Specimen:
    run = Specimen(plan={"faults": [{**PAUSE, "at": 0.2}]})
    run.inject("stop", "pause", "worker-1")
    return run


@pytest.mark.parametrize(
    ("entries", "pending", "message"),
    [
        (2, 0, "at last 2 of queue Bulk (0 pending)"),
        (2, 2, "at last 2 of queue Bulk (2 pending)"),
        (0, 1, "at last 0 of queue Bulk (1 pending)"),
    ],
)
def test_hints_that_stay_are_refused(entries: int, pending: int, message: str) -> None:
    left = QueueHints(queue="Bulk", entries=entries, pending=pending)
    history = rest(Specimen(), 20.0, EMPTY, left).history()
    refused(history, "S29", f"for 20.0 s after the end of all tasks (5 s allowed), {message}")


def test_hints_that_go_late_are_refused_without_faults_only() -> None:
    refused(rest(Specimen(), 6.0, EMPTY).history(), "S29", "held hints for 6.0 s")
    assert INVARIANTS["S29"](rest(paused(), 6.0, EMPTY).history()) == []


def test_hints_that_stay_longer_than_t_are_refused_under_faults() -> None:
    left = QueueHints(queue="default", entries=1, pending=1)
    assert INVARIANTS["S29"](rest(paused(), 20.0, left).history())


@pytest.mark.parametrize("queues", [(), (EMPTY,)])
def test_a_stream_may_be_empty_or_absent(queues: tuple[QueueHints, ...]) -> None:
    history = rest(Specimen(), 0.1, *queues).history()
    assert INVARIANTS["S29"](history) == []
    assert judge(history).verdict == "true"


# ------------------------------------------------------------------------------------- doubts


def quiet(*records: Scrape | HintsAtRest, arena: ArenaName = ArenaName.LIVE) -> list[str]:
    """Return the doubts of a run that came to rest with these records."""
    run = Specimen()
    done(run)
    run.records += [PhaseStart(phase="quiet", at=run.tick()), *records]

    def healed(record: Any) -> Any:
        if isinstance(record, Run):
            return replace(record, arena=arena)
        return (
            replace(record, core=("api-1", "worker-1"))
            if isinstance(record, PhaseStart) and record.phase == "healed"
            else record
        )

    history: History = run.edited(healed)
    return list(judge(history).doubts)


READ = HintsAtRest(at=9.0, waited_seconds=0.0, queues=(EMPTY,))
SCRAPES = tuple(Scrape(actor=actor, at=9.0, status=200) for actor in ("api-1", "worker-1"))


def test_everything_was_read() -> None:
    assert quiet(READ, *SCRAPES) == []


def test_what_was_not_read_is_doubted() -> None:
    assert quiet(*SCRAPES) == ["the hints in Redis were not read"]
    assert quiet(READ, SCRAPES[0]) == ["the metrics of worker-1 were not read"]
    assert quiet(READ, arena=ArenaName.COMPOSE) == []


def test_hints_that_were_not_waited_for_are_doubted() -> None:
    left = QueueHints(queue="default", entries=1, pending=0)
    short = HintsAtRest(at=9.0, waited_seconds=3.0, queues=(left,))
    assert quiet(short, *SCRAPES) == ["Redis held hints, but was read for 3.0 s only"]
