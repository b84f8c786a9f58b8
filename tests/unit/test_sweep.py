"""A sweep on its own: every answer of Postgres counts for the failure detector."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from holdfast.instrumentation.telemetry import Telemetry
from holdfast.scheduler.failure_detector import FailureDetector
from holdfast.scheduler.scheduler import Scheduler
from holdfast.settings import Settings
from holdfast.store.store import Store
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.tracing import Tracing

NOW = datetime(2026, 1, 9, 12, tzinfo=UTC)


class Steps:
    """A store and a failure detector in one, which note in which order they are called."""

    def __init__(self, *, trusted: bool) -> None:
        self.trusted = trusted
        self.names: list[str] = []

    async def clock(self) -> datetime:
        self.names.append("clock")
        return NOW

    async def mark_dead(self, _: int, asked: datetime, within_seconds: float) -> list[UUID]:
        assert (asked, within_seconds) == (NOW, 9.0)
        self.names.append("mark_dead")
        return []

    async def reclaim(self, *_: object) -> list[Any]:
        self.names.append("reclaim")
        return []

    def tick(self, _: float, database_now: datetime) -> bool:
        assert database_now == NOW
        self.names.append("tick")
        return self.trusted

    def answered(self, _: float) -> None:
        self.names.append("answered")


@pytest.mark.parametrize("trusted", [True, False])
async def test_each_answer_of_a_sweep_is_noted(*, trusted: bool) -> None:
    log = create_logger(style="json", stream=io.StringIO())
    telemetry = Telemetry(log, Metrics("scheduler"), Tracing(0.0, None))
    scheduler = Scheduler(Settings(poll_seconds=0.01), telemetry)
    steps = Steps(trusted=trusted)
    scheduler._sweeping = cast("Store", steps)
    scheduler._failure_detector = cast("FailureDetector", steps)
    await scheduler._sweep()
    marked = ["mark_dead", "answered"] if trusted else []
    assert steps.names == ["clock", "tick", *marked, "reclaim", "answered"]
