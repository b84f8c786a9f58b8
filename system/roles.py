"""Runs one role in this process: settings in, exit code out. SIGTERM and SIGINT stop gracefully."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

import structlog

from observability.logs import create_logger
from system import migrate
from system.api.app import create_api
from system.api.auth import require_safe_bind
from system.handlers.registry import Registry
from system.health import create_health, start_server, stop_server
from system.scheduler import Scheduler
from system.settings import Settings
from system.telling.telemetry import open_telemetry
from system.worker import Worker


async def run_api(settings: Settings) -> int:
    """Serves the API until a signal."""
    require_safe_bind(settings)
    await migrate.check(settings)
    log = _logger(settings, "api")
    server, task = await start_server(create_api(settings), settings.api_host, settings.api_port)
    log.info("api started", url=f"http://{settings.api_host}:{server.port}")
    stopping = asyncio.Event()
    _on_signal(stopping.set)
    await stopping.wait()
    await stop_server(server, task)
    log.info("api stopped")
    return 0


async def run_scheduler(settings: Settings) -> int:
    """Schedules until a signal."""
    await migrate.check(settings)
    async with open_telemetry(settings, "scheduler") as telemetry:
        scheduler = Scheduler(settings, telemetry)
        health = create_health(scheduler.loops.stalled, telemetry.metrics)
        server, task = await start_server(health, settings.health_host, settings.health_port)
        telemetry.log.info("health", url=f"http://{settings.health_host}:{server.port}/readyz")
        _on_signal(scheduler.stop)
        await scheduler.run()
        await stop_server(server, task)
    return 0


async def run_worker(settings: Settings, apps: Sequence[str]) -> int:
    """Works until a signal, or until this incarnation is dead (EXIT_DEAD)."""
    registry = Registry()
    registry.load_builtin(settings)
    for app in apps:
        registry.load(app)
    await migrate.check(settings)
    async with open_telemetry(settings, "worker") as telemetry:
        worker = Worker(settings, registry, telemetry)
        health = create_health(worker.stalled, telemetry.metrics)
        server, task = await start_server(health, settings.health_host, settings.health_port)
        telemetry.log.info("health", url=f"http://{settings.health_host}:{server.port}/readyz")
        _on_signal(worker.stop)
        code = await worker.run()
        await stop_server(server, task)
    return code


def _logger(settings: Settings, role: str) -> structlog.stdlib.BoundLogger:
    return create_logger(
        level=settings.log_level, style=settings.log_format, role=role, label=settings.label
    )


def _on_signal(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
