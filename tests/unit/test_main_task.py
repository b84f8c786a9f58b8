"""What other tasks and callbacks raise does not end the main task of a process."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from holdfast.runtime.main_task import run_main
from holdfast.runtime.signals import on_stop_signal


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    # As in a new process, whatever started this one and whatever ran in it before.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop: asyncio.AbstractEventLoop = request.param()
    yield loop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    loop.close()
    signal.signal(signal.SIGINT, before)


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [lambda: sys.exit(0), lambda: sys.exit(3), _interrupt])
def test_exit_in_a_child_task_reaches_its_parent(
    loop: asyncio.AbstractEventLoop, end: Callable[[], None]
) -> None:
    async def child() -> None:
        end()

    async def main() -> int:
        on_stop_signal(lambda: None)
        neighbour = asyncio.create_task(asyncio.sleep(0.01, "done"))
        (raised,) = await asyncio.gather(child(), return_exceptions=True)
        assert isinstance(raised, SystemExit | KeyboardInterrupt)
        assert await neighbour == "done"
        return 7

    assert run_main(loop, main()) == 7


@pytest.mark.parametrize("end", ["exit", "interrupt", "stop"])
def test_exit_in_a_callback_is_contained(loop: asyncio.AbstractEventLoop, end: str) -> None:
    ends = {"exit": sys.exit, "interrupt": _interrupt, "stop": loop.stop}

    async def main() -> int:
        on_stop_signal(lambda: None)
        loop.call_soon(ends[end])
        await asyncio.sleep(0.01)
        return 7

    assert run_main(loop, main()) == 7


def test_exit_of_the_main_task_ends_it(loop: asyncio.AbstractEventLoop) -> None:
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    async def main() -> int:
        sys.exit(5)

    with pytest.raises(SystemExit, match="5"):
        run_main(loop, main())
    gc.collect()
    assert not reported, "its exception was raised here: asyncio must not report it again"


def test_main_task_that_ends_beside_an_exit_has_its_own_code(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> int:
        on_stop_signal(lambda: None)
        loop.call_soon(sys.exit, 3)
        return 7

    assert run_main(loop, main()) == 7


def test_interrupt_without_a_handler_of_the_process_ends_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> int:
        loop.call_soon(_interrupt)
        await asyncio.sleep(60)
        return 7

    with pytest.raises(KeyboardInterrupt):
        run_main(loop, main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
