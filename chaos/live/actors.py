"""Roles as real operating system processes that are started, kept running and broken."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.nemesis.process_faults import ActorFailed, ProcessEnd
from chaos.nemesis.readiness import readiness
from holdfast.devstack.reaper import Reaper

# Covers the imports (eight processes on 2 cores) and reaching the database and Redis.
READY_SECONDS = 30.0
RESTART_DELAY_SECONDS = 0.1
# Backoff for processes that die immediately, because starts take CPU from the other processes.
RESTART_DELAY_MAX_SECONDS = 2.0
SHORT_LIFE_SECONDS = 3.0
REAP_SECONDS = 0.02
CLOCK_MOVES_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a process. ``ready_url`` returns 200 once it is ready.

    ``clock``: the file from which it reads its clock offset (``chaos.live.clock_skew_role``).
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    ready_url: str | None
    clock: Path | None = None


class SupervisedProcess:
    """One named process (an ``Actor``) that is replaced whenever it ends.

    After a planned end the new process waits for ``restart``, else it starts immediately.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        reaper: Reaper,
        on_exit: Callable[[ProcessEnd], None],
    ) -> None:
        self.name = name
        self.command = command
        self._reaper = reaper
        self._on_exit = on_exit
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._planned = False
        self._stopping = False
        self._may_start = asyncio.Event()
        self.starts = 0
        self._started_at = 0.0

    @property
    def pid(self) -> int:
        """The current process; raises ActorFailed when there is none."""
        if self._process is None or self._process.poll() is not None:
            raise ActorFailed(f"{self.name} has no process now")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def stopped(self) -> bool:
        return self._process is not None and process_state(self._process.pid) == "T"

    def start(self) -> None:
        """Start the process and keep one running from now on (needs a running event loop)."""
        self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def ready(self, timeout_seconds: float = READY_SECONDS, *, patient: bool = False) -> None:
        """Wait until the role reports that it is ready; raises ActorFailed.

        ``patient``: keep waiting while it dies repeatedly, as without its database.
        """
        if self.command.ready_url is None:
            return
        give_up = time.monotonic() + timeout_seconds
        starts = self.starts
        while time.monotonic() < give_up:
            if await self.readiness() == 200:
                return
            if self.starts > starts + 3 and not patient:
                break  # it keeps dying, so waiting does not help
            await asyncio.sleep(0.05)
        raise ActorFailed(
            f"{self.name} was not ready within {timeout_seconds:.0f} s "
            f"({self.starts} starts); its log ends:\n{tail(self.command.log)}"
        )

    async def readiness(self) -> int | None:
        """Return the status of its /readyz; None without an answer."""
        return await readiness(self.command.ready_url) if self.command.ready_url else None

    def kill(self) -> int:
        """SIGKILL; returns the pid. No new process until ``restart``."""
        return self._signal(signal.SIGKILL, ends=True)

    def terminate(self) -> int:
        """SIGTERM, the graceful stop; returns the pid. No new process until ``restart``."""
        return self._signal(signal.SIGTERM, ends=True)

    def pause(self) -> int:
        """SIGSTOP: stop execution while the kernel still accepts bytes; returns the pid."""
        return self._signal(signal.SIGSTOP, ends=False)

    def resume(self) -> int:
        """SIGCONT; returns the pid."""
        return self._signal(signal.SIGCONT, ends=False)

    def restart(self) -> None:
        """Let a new process start after a planned end."""
        self._may_start.set()

    async def gone(self) -> int:
        """Wait until the current process is reaped; returns its exit code."""
        if self._process is None:
            raise ActorFailed(f"{self.name} was never started")
        return await wait_for_exit(self._process)

    async def move_clock(self, seconds: float) -> float | None:
        """Set its wall clock ahead by ``seconds``.

        Returns how far ahead its clock then reads; None if it did not report it.
        """
        if self.command.clock is None:
            raise ActorFailed(f"{self.name} was not started with a clock that can be moved")
        shows = self.command.clock.with_name(f"{self.command.clock.name}.shows")
        shows.unlink(missing_ok=True)
        self.command.clock.write_text(str(seconds), encoding="ascii")
        self._signal(signal.SIGUSR1, ends=False)
        give_up = time.monotonic() + CLOCK_MOVES_SECONDS
        while time.monotonic() < give_up:
            if shows.exists():
                return round(float(shows.read_text(encoding="ascii")) - time.time(), 2)
            await asyncio.sleep(0.01)
        return None

    def abandon(self) -> None:
        """SIGKILL if it runs; never start a new process, not even a pending one."""
        self._stopping = True
        if self.alive:
            self.kill()

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """End the process for good: SIGCONT and SIGTERM, SIGKILL after the grace."""
        self._stopping = True
        self._may_start.set()
        if self.alive:
            self.resume()
            self._signal(signal.SIGTERM, ends=True)
            try:
                await asyncio.wait_for(self.gone(), grace_seconds)
            except TimeoutError:
                self._signal(signal.SIGKILL, ends=True)
                await self.gone()
        if self._keeper is not None:
            await self._keeper

    def _signal(self, number: signal.Signals, *, ends: bool) -> int:
        pid = self.pid
        if ends:
            self._planned = True
            if not self._stopping:
                self._may_start.clear()
        os.kill(pid, number)
        return pid

    def _spawn(self) -> None:
        self.command.log.parent.mkdir(parents=True, exist_ok=True)
        with self.command.log.open("ab") as log:
            # In its own session: Ctrl-C reaches only the harness, which stops all in order.
            self._process = self._reaper.spawn(
                self.command.argv,
                env=self.command.environment,
                cwd=self.command.directory,
                stdout=log,
                stderr=log,
            )
        self.starts += 1
        self._started_at = time.monotonic()

    async def _keep(self) -> None:
        delay = RESTART_DELAY_SECONDS
        while True:
            process = self._process
            if process is None:
                return
            code = await wait_for_exit(process)
            self._reaper.forget(process)
            planned, self._planned = self._planned, False
            self._on_exit(ProcessEnd(self.name, process.pid, code, time.time(), planned))
            if planned or time.monotonic() - self._started_at >= SHORT_LIFE_SECONDS:
                delay = RESTART_DELAY_SECONDS
            if planned:
                await self._may_start.wait()
            else:
                await asyncio.sleep(delay)
                delay = min(2 * delay, RESTART_DELAY_MAX_SECONDS)
            if self._stopping:
                return
            self._spawn()


async def wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    """Wait until the process is reaped; return its exit code."""
    while (code := process.poll()) is None:
        await asyncio.sleep(REAP_SECONDS)
    return code


def process_state(pid: int) -> str:
    """Return the kernel's state letter: R, S, D, T (stopped), Z; "" if there is no process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    # The command's name is in parentheses and may contain any character.
    return stat.rpartition(")")[2].split()[0]


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or a note that there are none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(text[-lines:]) or "(empty)"
