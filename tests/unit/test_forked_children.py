"""Children that a handler forks: signals meant for them, and children that leave the handler."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.worker.outcome import of_coroutine, of_function

PARENT = """
import asyncio, multiprocessing, signal, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
import uvloop
from holdfast.runtime.signals import on_stop_signal, reset_in_forked_children

fork = multiprocessing.get_context("fork")

def terminate():
    for delay in (0, 0, 0.05):
        child = fork.Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(delay)
        child.terminate()
        child.join(20)
        assert child.exitcode == -signal.SIGTERM, child.exitcode

def pool():
    with fork.Pool(2) as workers:
        assert workers.map(abs, [-1, 2]) == [1, 2]

async def main():
    stopped = asyncio.Event()
    on_stop_signal(stopped.set)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for work in (terminate, pool):
        work()
        await asyncio.to_thread(work)
    await asyncio.sleep(0.1)
    assert not stopped.is_set(), "a signal to a child stopped its parent"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(stopped.wait(), 5)

reset_in_forked_children()
uvloop.run(main())
"""


def test_signals_to_forked_children_do_not_reach_their_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def _exit_code(pid: Any) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(leave: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        leave()
    return child


def _fail() -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("leave", "code"), [(lambda: None, 0), (_fail, 1), (lambda: sys.exit(4), 4)]
)
async def test_forked_child_ends_where_it_leaves_the_handler(
    leave: Callable[[], None], code: int
) -> None:
    async def handler() -> int:
        return _fork(leave)

    for outcome in (of_function(lambda: _fork(leave)), await of_coroutine(handler)):
        assert _exit_code(outcome.value) == code  # type: ignore[union-attr]
