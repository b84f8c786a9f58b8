"""Roles as simulated processes: the product's own main functions, kept running on nodes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from chaos.nemesis.process_faults import ActorFailed, NotReady, ProcessEnd
from chaos.nemesis.readiness import readiness
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node

READY_SECONDS = 30.0
RESTART_DELAY_SECONDS = 0.1
# The delay doubles for a process that keeps exiting early, as under a real supervisor.
RESTART_DELAY_MAX_SECONDS = 2.0
SHORT_LIFE_SECONDS = 3.0
_LOOK_SECONDS = 0.05
_TAIL_LINES = 15
Main = Callable[[], Coroutine[Any, Any, int | None]]


class SimulatedProcess:
    """A role under supervision (``chaos.nemesis.process_faults.Actor``).

    A new node replaces one that ended. ``address``: where its /readyz answers. Its pid is the
    number of its node.
    """

    def __init__(self, name: str, main: Main, address: tuple[str, int]) -> None:
        self.name = name
        self._main = main
        self._address = address
        self._node: Node | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._planned = False
        self._stopping = False
        self._may_start = asyncio.Event()
        self._started_at = 0.0
        self.starts = 0
        self.lives: list[Node] = []
        self.exits: list[ProcessEnd] = []

    @property
    def pid(self) -> int:
        return self._running().number

    @property
    def alive(self) -> bool:
        return self._node is not None and self._node.state != "dead"

    @property
    def stopped(self) -> bool:
        return self._node is not None and self._node.state == "paused"

    def start(self) -> None:
        """Start it and restart it whenever it ends. Must be called on the harness's node."""
        self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def ready(self, timeout_seconds: float = READY_SECONDS, *, patient: bool = False) -> None:
        loop = _loop()
        give_up, starts = loop.time() + timeout_seconds, self.starts
        while loop.time() < give_up:
            if await self.readiness() == 200:
                return
            if self.starts > starts + 3 and not patient:
                break  # in a crash loop, more waiting does not help
            await asyncio.sleep(_LOOK_SECONDS)
        raise NotReady(
            self.name,
            self.starts - starts,
            f"{self.name} was not ready within {timeout_seconds:.0f} virtual s "
            f"({self.starts} starts); its log ends:\n{self._tail()}",
        )

    async def readiness(self) -> int | None:
        host, port = self._address
        return await readiness(f"http://{host}:{port}/readyz")

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def terminate(self) -> int:
        return self._end(signal.SIGTERM)

    def pause(self) -> int:
        node = self._running()
        _loop().pause(node)
        return node.number

    def resume(self) -> int:
        node = self._running()
        _loop().resume(node)
        return node.number

    def restart(self) -> None:
        self._may_start.set()

    def abandon(self) -> None:
        self._stopping = True
        if self.alive:
            self.kill()

    async def gone(self) -> int:
        if self._node is None:
            raise ActorFailed(f"{self.name} was never started")
        return await self._node.wait()

    async def move_clock(self, seconds: float) -> float | None:
        node = self._running()
        node.clock_offset = seconds
        return node.clock_offset

    async def stop(self, grace_seconds: float) -> None:
        """Stop it for good: SIGTERM, then SIGKILL after ``grace_seconds``."""
        self._stopping = True
        self._may_start.set()
        if self.alive:
            self.resume()
            self._end(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.gone(), grace_seconds)
            except TimeoutError:
                self.kill()
        if self._keeper is not None:
            await self._keeper

    @property
    def log(self) -> list[str]:
        """Return the output lines of all its nodes."""
        return [line for life in self.lives for line in life.output]

    def _running(self) -> Node:
        if self._node is None or self._node.state == "dead":
            raise ActorFailed(f"{self.name} has no process now")
        return self._node

    def _end(self, number: signal.Signals) -> int:
        node = self._running()
        self._planned = True
        if not self._stopping:
            self._may_start.clear()
        _loop().send_signal(node, number)
        return node.number

    def _spawn(self) -> None:
        loop = _loop()
        self._node = loop.start(self.name, self._main)
        self.lives.append(self._node)
        self.starts += 1
        self._started_at = loop.time()

    async def _keep(self) -> None:
        delay, loop = RESTART_DELAY_SECONDS, _loop()
        while self._node is not None:
            code = await self._node.wait()
            planned, self._planned = self._planned, False
            end = ProcessEnd(self.name, self._node.number, code, time.time(), planned)
            self.exits.append(end)
            if planned or loop.time() - self._started_at >= SHORT_LIFE_SECONDS:
                delay = RESTART_DELAY_SECONDS
            if planned:
                await self._may_start.wait()
            else:
                await asyncio.sleep(delay)
                delay = min(2 * delay, RESTART_DELAY_MAX_SECONDS)
            if self._stopping:
                return
            self._spawn()

    def _tail(self) -> str:
        return "\n".join(self.log[-_TAIL_LINES:]) or "(no log)"


def write_logs(actors: dict[str, SimulatedProcess], directory: Path) -> None:
    """Write one log file per process, as the live arena does."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, actor in actors.items():
        text = "".join(f"{line}\n" for line in actor.log)
        (directory / f"{name}.log").write_text(text, encoding="utf-8")


def _loop() -> SimulationLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulationLoop)  # noqa: S101 - the only loop it is made for
    return loop
