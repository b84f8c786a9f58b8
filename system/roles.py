"""Runs a scheduler or a worker in this process: settings in, exit code out.

The API has its own, ``api/role.py``: who schedules or works need not load a web framework.
"""

from __future__ import annotations

from collections.abc import Sequence

from observability.event_names import EventName
from system import revision
from system.handlers.registry import Registry
from system.health import create_health, start_server, stop_server
from system.scheduler import Scheduler
from system.settings import Settings
from system.signals import on_stop_signal
from system.telling.telemetry import open_telemetry
from system.worker import Worker


async def run_scheduler(settings: Settings) -> int:
    """Schedules until a signal."""
    await revision.check(settings)
    async with open_telemetry(settings, "scheduler") as telemetry:
        scheduler = Scheduler(settings, telemetry)
        health = create_health(scheduler.loops.stalled, telemetry.metrics)
        server, task = await start_server(health, settings.health_host, settings.health_port)
        telemetry.log.info(
            "Health server started",
            event_name=EventName.HEALTH_STARTED,
            url=f"http://{settings.health_host}:{server.port}/readyz",
        )
        on_stop_signal(scheduler.stop)
        await scheduler.run()
        await stop_server(server, task)
    return 0


async def run_worker(settings: Settings, apps: Sequence[str]) -> int:
    """Works until a signal, or until this incarnation is dead (EXIT_DEAD)."""
    registry = Registry()
    registry.load_builtin(settings)
    for app in apps:
        registry.load(app)
    await revision.check(settings)
    async with open_telemetry(settings, "worker") as telemetry:
        worker = Worker(settings, registry, telemetry)
        health = create_health(worker.stalled, telemetry.metrics)
        server, task = await start_server(health, settings.health_host, settings.health_port)
        telemetry.log.info(
            "Health server started",
            event_name=EventName.HEALTH_STARTED,
            url=f"http://{settings.health_host}:{server.port}/readyz",
        )
        on_stop_signal(worker.stop)
        code = await worker.run()
        await stop_server(server, task)
    return code
