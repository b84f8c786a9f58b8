"""Run a scheduler as this process's role."""

from __future__ import annotations

from holdfast.errors import Misconfigured
from holdfast.instrumentation.telemetry import open_telemetry
from holdfast.queue.server import unsuitable_redis
from holdfast.runtime.health import require_safe_health, start_health, stop_server
from holdfast.runtime.signals import on_stop_signal
from holdfast.runtime.startup import Startup
from holdfast.scheduler.scheduler import Scheduler
from holdfast.settings import Settings
from holdfast.store import revision


async def run_scheduler(settings: Settings) -> int:
    """Run a scheduler until a stop signal; return the exit code.

    Raises:
        Misconfigured: Postgres is not migrated, or Redis can never serve hints.
    """
    require_safe_health(settings)

    async def check() -> None:
        await revision.check(settings)
        if problem := await unsuitable_redis(settings):
            raise Misconfigured(problem)

    async with open_telemetry(settings, "scheduler") as telemetry:
        startup = Startup(check, telemetry.log)
        on_stop_signal(startup.stop)
        await startup.attempt()
        scheduler = Scheduler(settings, telemetry)
        server, task = await start_health(
            settings,
            lambda: startup.stalled() or scheduler.loops.stalled(),
            telemetry.metrics,
            telemetry.log,
        )
        if await startup.passed():
            on_stop_signal(scheduler.stop)
            await scheduler.run()
        await stop_server(server, task)
    return 0
