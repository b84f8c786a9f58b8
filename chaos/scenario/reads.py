"""Draw further reads of a workload, retries by hand, and late cancels.

Each task has a generator of its own, so these draws change neither the other draws of the workload
nor those of other tasks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chaos.scenario.differences import FAILURES_MAX
from chaos.scenario.operations import Workload
from chaos.tasks.steps import does
from holdfast.model.lifecycle import State

# A task that may be dead-lettered is retried by hand so often soon, and once more later.
_RETRIES_SOON_MAX = 2
RETRIES_MAX = _RETRIES_SOON_MAX + 1
# Shares of the workload's ``reads``: of tasks that are retried though they do not fail (a 409), and
# of tasks after whose submit a listing is walked.
_NEEDLESS = 0.1
_WALKS = 0.1
_PAGES_MAX = 3
_LIMITS = (1, 50)
# Enough for the attempts that dead-letter most tasks; a retry that comes too early gets a 409.
_AFTER_SECONDS = (0.3, 3.0)
# Enough to be dead-lettered even if an attempt is lost.
_LATE_SECONDS = (2.0, 7.0)
_LATE_CANCELS = 0.5


@dataclass(frozen=True, slots=True)
class Read:
    """One read or action, ``after`` seconds after a submit; ``query`` and ``pages`` of a list."""

    after: float
    kind: Literal["get", "events", "cancel", "retry", "list"]
    query: dict[str, Any] = field(default_factory=dict)
    pages: int = 1


def reads(
    workload: Workload, seed: int, number: int, request: dict[str, Any], due: float
) -> Iterator[Read]:
    """Yield what is drawn for one task; ``due``: seconds from its submit until it is due."""
    draw = random.Random(f"reads {seed} {number}")
    if draw.random() < workload.reads:
        yield Read(due + draw.uniform(0.0, 1.5), draw.choice(("get", "events")))
    fails = _dead_lettered(request["payload"])
    if draw.random() < (workload.reads > 0 if fails else workload.reads * _NEEDLESS):
        for _ in range(draw.randint(1, _RETRIES_SOON_MAX) if fails else 1):
            yield Read(due + draw.uniform(*_AFTER_SECONDS), "retry")
    if draw.random() < workload.reads * _WALKS:
        query = filters(draw, request) | {"limit": draw.randint(*_LIMITS)}
        yield Read(draw.uniform(0.0, 1.5), "list", query, draw.randint(1, _PAGES_MAX))


def late_actions(
    workload: Workload, seed: int, number: int, request: dict[str, Any], due: float, left: float
) -> Iterator[Read]:
    """Yield the cancel and the retry that a task gets when it should be a dead letter.

    ``left``: seconds from its submit until the end of the load; what would come later is dropped.
    """
    if not workload.reads or not _dead_lettered(request["payload"]):
        return
    draw = random.Random(f"late {seed} {number}")
    retry = Read(due + draw.uniform(*_LATE_SECONDS), "retry")
    cancel = Read(due + draw.uniform(*_LATE_SECONDS), "cancel")
    wanted = [retry, cancel] if workload.cancels and draw.random() < _LATE_CANCELS else [retry]
    yield from (read for read in wanted if read.after <= left)


def _dead_lettered(payload: Mapping[str, Any]) -> bool:
    """Return whether the steps of a payload are meant to use up all attempts."""
    steps = payload.get("steps", ())
    return does(payload, 1) == "discard" or len(steps) > FAILURES_MAX


def filters(draw: random.Random, request: Mapping[str, Any]) -> dict[str, Any]:
    """Draw a combination of filters that a task with this ``name`` and ``queue`` may match."""
    query: dict[str, Any] = {}
    if draw.random() < 0.6:
        query["state"] = [str(state) for state in draw.sample(tuple(State), draw.randint(1, 2))]
    if draw.random() < 0.4:
        query["queue"] = request.get("queue", "default")
    if draw.random() < 0.3:
        query["name"] = request["name"]
    return query
