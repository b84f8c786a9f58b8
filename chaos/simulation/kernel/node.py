"""A simulated process, as an operating system sees it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import random
from collections import deque
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Literal, NoReturn, Protocol

import greenlet  # type: ignore[import-untyped]

from chaos.simulation.kernel.rng import RngStreams

NODE: contextvars.ContextVar[Node] = contextvars.ContextVar("node")

EPOCH = 1_767_225_600  # Unix time at which every run begins: 2026-01-01T00:00:00Z

_FIRST_PID = 1000
_PATIENCE = 100  # how often a coroutine may await again while it is closed


class Disposed(BaseException):
    """Thrown into the suspended stacks of a finished run, so that they can be freed."""


class Kernel(Protocol):
    """The part of the loop that a node and its code use (``loop.SimulationLoop``)."""

    seed: int
    rng: RngStreams
    nodes: list[Node]
    refused: list[str]

    def time(self) -> float:
        """Return the virtual seconds since the start of the run."""

    def leave(self, code: int) -> NoReturn:
        """End the node whose step is running."""

    def send_signal(self, node: Node, number: int) -> None:
        """Deliver a signal to a node."""


class Node:
    """A process from its start to its exit; a restart is another node of the same name.

    ``number`` is unique in the run, ``incarnation`` counts the nodes of this name (from 1), and
    ``clock_offset`` (seconds) moves the wall clock of this node only, never its monotonic one.
    """

    def __init__(self, loop: Kernel, name: str, number: int, incarnation: int) -> None:
        self.loop = loop
        self.name = name
        self.number = number
        self.incarnation = incarnation
        self.state: Literal["running", "paused", "dead"] = "running"
        self.clock_offset = 0.0
        self.exit_code: int | None = None  # once dead; the negative signal if one killed it
        self.output: list[str] = []  # whole lines of stdout and stderr
        self.signal_handlers: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
        # One random stream per process, so that draws of one do not shift those of another.
        self.entropy = random.Random(f"{loop.seed} entropy {name} {incarnation}")
        self.random = loop.rng.stream(f"random {name} {incarnation}")  # random.random()
        self.context = contextvars.Context()  # all code of this node runs in a copy of it
        self.context.run(NODE.set, self)
        self.hashes = itertools.count()  # see virtual.ADDRESSED
        self.ready: deque[asyncio.Handle] = deque()  # the loop's
        self.tasks: dict[int, asyncio.Task[Any]] = {}  # not done yet, by creation number
        self.stack: Any = None  # of the loop: its steps run on it
        # Referenced after the exit, so that no object of a killed process is finalised.
        self.retained: list[object] = []
        self._line = ""
        self._waiters: list[asyncio.Future[int]] = []

    def __repr__(self) -> str:
        return f"<{self.name} #{self.incarnation} {self.state}>"

    @property
    def pid(self) -> int:
        """Return what ``os.getpid()`` returns in this node."""
        return _FIRST_PID + self.number

    @property
    def alive(self) -> bool:
        """Whether it has not exited; a paused process is alive."""
        return self.state != "dead"

    def wall_ns(self) -> int:
        """Return its wall clock, in nanoseconds of Unix time."""
        return EPOCH * 1_000_000_000 + round((self.loop.time() + self.clock_offset) * 1e9)

    def write(self, text: str) -> None:
        """Write to its terminal; a dead node writes nothing."""
        if self.alive:
            *lines, self._line = (self._line + text).split("\n")
            self.output.extend(lines)

    async def wait(self) -> int:
        """Wait from another node until this one exits; return the exit code."""
        if self.exit_code is not None:
            return self.exit_code
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    def waits(self) -> list[str]:
        """Describe where each of its tasks waits, for the diagnosis of a stuck run."""
        return [f"{task.get_name()} at {_place(task.get_coro())}" for task in self.tasks.values()]

    def end(self, code: int) -> None:
        """Mark the node as exited; called by the loop."""
        self.state, self.exit_code = "dead", code
        if self._line:
            self.output.append(self._line)
        self.retained.extend(self.ready)
        self.ready.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(code)

    def dispose(self) -> None:
        """Dispose of the node after the run, without effects; called by the loop."""
        self.state = "dead"
        for abandoned in list(self.retained):  # a stack that called os._exit
            if isinstance(abandoned, greenlet.greenlet):
                with contextlib.suppress(BaseException):
                    abandoned.throw(Disposed)
        while self.tasks:  # a closing task may start others
            _, task = self.tasks.popitem()
            # The run is over: asyncio must not warn that the task is pending.
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
            self.context.copy().run(_close, task.get_coro())
        self.retained.clear()


def _close(coroutine: Any) -> None:
    """Close a coroutine; repeat while a ``finally`` awaits again."""
    for _ in range(_PATIENCE):
        try:
            coroutine.close()
        except BaseException:  # noqa: BLE001, S112 - the run is over
            continue
        return


def _place(coroutine: Any) -> str:
    """Return the innermost line at which a coroutine waits."""
    while hasattr(inner := getattr(coroutine, "cr_await", None), "cr_frame"):
        coroutine = inner
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None:
        return repr(type(coroutine).__name__)
    path = PurePath(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno} ({coroutine.__qualname__})"


class _Escape:
    """Counts the open ``audit.real()`` blocks, in which bridges do real work at no virtual time."""

    depth = 0


escape = _Escape()


def simulated() -> Node | None:
    """Return the running node; None outside a simulation and within ``audit.real()``."""
    return None if escape.depth else NODE.get(None)


def current_node() -> Node:
    """Return the running node.

    Raises:
        RuntimeError: outside of a simulation.
    """
    node = NODE.get(None)
    if node is None:
        raise RuntimeError(
            "this code does not run in a simulated process: start one with loop.start()"
        )
    return node
