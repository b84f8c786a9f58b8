"""What a role tells things to: its log, its metrics, its traces. One of each per process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from observability.logs import Logger, create_logger
from observability.metrics import Metrics
from observability.tracing import Tracing, create_tracing
from system.settings import Settings


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Made by ``create_telemetry``."""

    log: Logger
    metrics: Metrics
    tracing: Tracing

    @property
    def verbose(self) -> bool:
        """Whether DEBUG lines are written: else nobody should even put one together."""
        return self.log.is_enabled_for(logging.DEBUG)


def create_telemetry(settings: Settings, role: str) -> Telemetry:
    """The telemetry of one process; its tracing is to be started on the role's loop."""
    log = create_logger(
        level=settings.log_level, style=settings.log_format, role=role, label=settings.label
    )
    metrics = Metrics(role)
    tracing = create_tracing(
        settings.otlp_endpoint,
        settings.trace_ratio,
        metrics,
        log,
        role=role,
        label=settings.label,
        version=version("holdfast"),
        export_seconds=settings.trace_export_seconds,
    )
    return Telemetry(log, metrics, tracing)


@asynccontextmanager
async def open_telemetry(settings: Settings, role: str) -> AsyncIterator[Telemetry]:
    """``create_telemetry``, exporting as long as the block lasts and for a bounded time after."""
    telemetry = create_telemetry(settings, role)
    telemetry.tracing.start()
    try:
        yield telemetry
    finally:
        await telemetry.tracing.aclose()
