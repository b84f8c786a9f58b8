"""Start and stop the child processes of a measurement, each in its own session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

STOP_SECONDS = 40.0
_UP_SECONDS = 120.0
_POLL_SECONDS = 0.1


class LoadtestError(Exception):
    """The measurement failed; the message says why and what to do."""


async def spawn(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int = DEVNULL,
    stdout: int = DEVNULL,
    stderr: int | None = None,
    python: Path | None = None,
) -> Process:
    """Start ``python -m ARGUMENTS`` in its own session, so that Ctrl-C reaches only the loadtest.

    ``python``: the interpreter of another virtual environment.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "HOLDFAST_API_KEYS"}
    defaults = {"HOLDFAST_LOG_LEVEL": "WARNING", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return await asyncio.create_subprocess_exec(
        str(python or sys.executable),
        "-m",
        *arguments,
        env={**defaults, **inherited, **environment},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


async def until_up(client: httpx.AsyncClient, path: str, check: Callable[[], None]) -> None:
    """Wait for a successful response on ``path``; ``check`` may raise in between.

    Raises:
        LoadtestError: there was none within two minutes.
    """
    try:
        async with asyncio.timeout(_UP_SECONDS):
            while not await _is_up(client, path):
                check()
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        late = f"{client.base_url} was not up within {_UP_SECONDS:.0f} s"
        raise LoadtestError(late) from None


async def _is_up(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).is_success
    except httpx.TransportError:
        return False


async def end(process: Process) -> None:
    """Send SIGTERM, then SIGKILL after a timeout."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
                return


async def kill(process: Process) -> None:
    """Kill the process and all others of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def free_port() -> int:
    """Return a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
