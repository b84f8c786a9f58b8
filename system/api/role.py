"""Runs an API server in this process: settings in, exit code out."""

from __future__ import annotations

import asyncio

from observability.event_names import EventName
from observability.logs import create_logger
from system import revision
from system.api.app import create_api
from system.api.auth import require_safe_bind
from system.health import start_server, stop_server
from system.settings import Settings
from system.signals import on_stop_signal


async def run_api(settings: Settings) -> int:
    """Serves the API until a signal."""
    require_safe_bind(settings)
    await revision.check(settings)
    log = create_logger(
        level=settings.log_level, style=settings.log_format, role="api", label=settings.label
    )
    server, task = await start_server(create_api(settings), settings.api_host, settings.api_port)
    log.info(
        "API started",
        event_name=EventName.API_STARTED,
        url=f"http://{settings.api_host}:{server.port}",
    )
    stopping = asyncio.Event()
    on_stop_signal(stopping.set)
    await stopping.wait()
    await stop_server(server, task)
    log.info("API stopped", event_name=EventName.API_STOPPED)
    return 0
