"""What a role does when it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Calls ``stop`` in the running loop at every SIGTERM and SIGINT: a role stops gracefully."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
