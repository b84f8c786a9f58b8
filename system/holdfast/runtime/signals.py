"""Handle the signals that stop a role, and keep them apart from those of forked children."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

_STOP = (signal.SIGTERM, signal.SIGINT)


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call ``stop`` in the running loop on every SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in _STOP:
        loop.add_signal_handler(number, stop)


def reset_in_forked_children() -> None:
    """Give the children that this process forks from now on the default signal handling.

    A child inherits the handlers of the event loop and the socket by which they wake it: a SIGTERM
    sent to the child would stop this process, and not the child. Call it once per process.
    """
    masks = threading.local()

    def block() -> None:
        # A signal sent to the child before it is reset waits until then.
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def reset() -> None:
        signal.set_wakeup_fd(-1)
        for number in _STOP:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=reset)
