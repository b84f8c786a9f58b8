"""Run a scheduler in this process: settings in, exit code out."""

from __future__ import annotations

from observability.event_names import EventName
from system import revision
from system.health import create_health, start_server, stop_server
from system.scheduler import Scheduler
from system.settings import Settings
from system.signals import on_stop_signal
from system.telling.telemetry import open_telemetry


async def run_scheduler(settings: Settings) -> int:
    """Schedule until a stop signal."""
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
