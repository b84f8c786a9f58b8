"""Run an API server in this process."""

from __future__ import annotations

from holdfast.api.app import create_api
from holdfast.api.auth import require_safe_bind
from holdfast.runtime.health import start_server, stop_server
from holdfast.runtime.signals import on_stop_signal
from holdfast.runtime.startup import Startup
from holdfast.settings import Settings
from holdfast.store import revision
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import create_logger


async def run_api(settings: Settings) -> int:
    """Serve the API until a stop signal; return the exit code."""
    require_safe_bind(settings)
    log = create_logger(
        level=settings.log_level, style=settings.log_format, role="api", label=settings.label
    )
    startup = Startup(lambda: revision.check(settings), log)
    on_stop_signal(startup.stop)
    await startup.attempt()
    server, task = await start_server(
        create_api(settings),
        settings.api_host,
        settings.api_port,
        connections_max=settings.connections_max,
        log=log,
    )
    log.info(
        "API started",
        event_name=EventName.API_STARTED,
        url=f"http://{settings.api_host}:{server.port}",
    )
    if await startup.passed():  # until then requests are answered as in an outage
        await startup.stopping.wait()
    await stop_server(server, task)
    log.info("API stopped", event_name=EventName.API_STOPPED)
    return 0
