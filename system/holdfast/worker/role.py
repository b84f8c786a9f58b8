"""Run a worker in this process."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.handlers.registry import Registry
from holdfast.instrumentation.telemetry import open_telemetry
from holdfast.runtime.health import require_safe_health, start_health, stop_server
from holdfast.runtime.signals import on_stop_signal
from holdfast.runtime.startup import Startup
from holdfast.settings import Settings
from holdfast.store import revision
from holdfast.worker.worker import Worker


async def run_worker(settings: Settings, apps: Sequence[str]) -> int:
    """Run until a stop signal (0), or until this incarnation is marked dead (EXIT_DEAD).

    Raises:
        Misconfigured: Postgres is not migrated, or Redis can never serve hints.
    """
    require_safe_health(settings)
    registry = Registry()
    registry.load_builtin(settings)
    for app in apps:
        registry.load(app)
    async with open_telemetry(settings, "worker") as telemetry:
        startup = Startup(lambda: revision.check(settings), telemetry.log)
        on_stop_signal(startup.stop)
        await startup.attempt()
        worker = Worker(settings, registry, telemetry)
        server, task = await start_health(
            settings,
            lambda: startup.stalled() or worker.stalled(),
            telemetry.metrics,
            telemetry.log,
        )
        try:
            if not await startup.passed():
                return 0
            on_stop_signal(worker.stop)
            return await worker.run()
        finally:
            await stop_server(server, task)
