"""The log, metrics and traces of one process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from holdfast.errors import Misconfigured
from holdfast.settings import Settings
from holdfast.telemetry.logs import Logger, create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import span_destination
from holdfast.telemetry.tracing import Tracing, create_tracing


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The outputs a role emits to; made by ``create_telemetry``."""

    log: Logger
    metrics: Metrics
    tracing: Tracing

    @property
    def verbose(self) -> bool:
        """Whether DEBUG lines are written; otherwise callers do not build them."""
        return self.log.is_enabled_for(logging.DEBUG)


def create_telemetry(settings: Settings, role: str) -> Telemetry:
    """Create the telemetry of a process; start its tracing on the role's event loop.

    Raises:
        Misconfigured: a variable OTEL_* is invalid.
    """
    log = create_logger(
        level=settings.log_level, style=settings.log_format, role=role, label=settings.label
    )
    metrics = Metrics(role)
    try:
        tracing = create_tracing(
            span_destination(settings.otlp_endpoint, settings.otel_variables()),
            settings.trace_ratio,
            metrics,
            log,
            role=role,
            label=settings.label,
            version=version("holdfast"),
            export_seconds=settings.trace_export_seconds,
        )
    except ValueError as error:
        raise Misconfigured(str(error)) from error
    return Telemetry(log, metrics, tracing)


@asynccontextmanager
async def open_telemetry(settings: Settings, role: str) -> AsyncIterator[Telemetry]:
    """Export spans while the block runs; flush them within a bounded time afterwards."""
    telemetry = create_telemetry(settings, role)
    telemetry.tracing.start()
    try:
        yield telemetry
    finally:
        await telemetry.tracing.aclose()
