"""Run the main task of a process to its end, whatever other code raises in its event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def run_main(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, int]) -> int:
    """Run ``main`` on ``loop`` and return what it returns.

    asyncio ends the loop, and with it the process, when a task or a callback other than ``main``
    raises SystemExit or KeyboardInterrupt, or calls ``loop.stop()``. A handler of a task may: its
    attempt gets the exception where it awaits that task, and the loop goes on.

    Raises:
        BaseException: what ``main`` raised.
        KeyboardInterrupt: Ctrl-C, before the process has its own handler for it.
    """
    task = loop.create_task(main)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
            if task.done():
                return task.result()
            interrupted = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if interrupted and isinstance(error, KeyboardInterrupt):
                raise
            loop.call_exception_handler(
                {"message": "A task or callback tried to end the process", "exception": error}
            )
