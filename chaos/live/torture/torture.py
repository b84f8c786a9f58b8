"""Torture a `holdfast up`: its own supervisor must bring back all that the harness takes away.

Nothing stands between the processes and nothing is chosen by scenario: a seed draws the victims,
signals and pauses. The stack has its default settings. What is checked is what a client can check:
each task that was answered with 201 ends, and has its effect exactly once if it succeeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psycopg
import redis.asyncio
import redis.exceptions

from chaos.live.torture.load import Load
from chaos.live.torture.report import TortureReport
from chaos.live.torture.up import LOG, UpStack, running_up
from chaos.live.torture.victims import Blow, Victim
from chaos.observers.database import DatabaseObserver
from chaos.tasks.sql import CHAOS_EFFECTS
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper

HANDLERS = "chaos.tasks.sql"
PAUSE_SECONDS = (0.5, 3.0)  # between two blows
STOPPED_SECONDS = (0.3, 8.0)
_SETTLE_SECONDS = 180.0  # several leases and restarts; what is open then is reported as unfinished
_LOOK_SECONDS = 0.05
_PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TortureOptions:
    """``rate``: submits per second; ``seed`` draws who is struck, when and how."""

    seconds: float
    seed: int
    rate: float = 10.0
    schedulers: int = 2
    workers: int = 2


async def torture(options: TortureOptions, say: Callable[[str], None]) -> TortureReport:
    """Start a stack, strike it for ``options.seconds`` under load, and report.

    Raises:
        ChaosError: the stack did not start, or its processes cannot be found.
    """
    with Reaper() as reaper:
        directory = temporary_directory("holdfast-torture-")
        reaper.own_directory(directory)
        say("starting `holdfast up`")
        counts = (options.schedulers, options.workers)
        async with running_up((HANDLERS,), *counts, reaper, directory) as stack:
            await _create_table(stack.postgres)
            report = await _Torture(options, stack, say).run()
        if not report.succeeded:
            say(f"the stack's own output is kept in {_keep_log(directory, options.seed)}")
        return report


def _keep_log(directory: Path, seed: int) -> Path:
    kept = Path(".holdfast").absolute()
    kept.mkdir(exist_ok=True)
    return Path(shutil.copy(directory / LOG, kept / f"torture-{seed}.log"))


async def _create_table(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(CHAOS_EFFECTS)
    finally:
        await connection.close()


class _Torture:
    def __init__(self, options: TortureOptions, stack: UpStack, say: Callable[[str], None]) -> None:
        self._options = options
        self._stack = stack
        self._say = say
        self._rng = random.Random(options.seed)
        self._load = Load(stack.api, options.rate, str(options.seed))
        self._blows: Counter[str] = Counter()
        self._recoveries: list[float] = []
        self._well_at = 0.0  # when a look found both servers up, and a task accepted since then
        self._resuming: set[asyncio.Task[None]] = set()

    async def run(self) -> TortureReport:
        observer = DatabaseObserver(self._stack.postgres)
        try:
            async with self._load.running():
                self._say(f"striking for {self._options.seconds:.0f} s")
                async with self._probing():
                    await self._strike_all()
                    give_up = asyncio.get_running_loop().time() + _SETTLE_SECONDS
                    await self._well(give_up)
                self._load.end()
                self._say("waiting until every submit is answered and every task has ended")
                await self._settled(observer, give_up)
            return await self._report(observer)
        finally:
            await observer.close()

    # Blows

    async def _strike_all(self) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._options.seconds
        try:
            while loop.time() < ends:
                self._strike()
                await asyncio.sleep(self._rng.uniform(*PAUSE_SECONDS))
        finally:
            await asyncio.gather(*self._resuming)

    def _strike(self) -> None:
        """Strike one of the processes that run now; a kind of process first, then one of it."""
        victims = self._stack.processes.victims()
        kinds = sorted({name.split("-")[0] for name in victims} - {"mail"})
        if not kinds:
            return
        kind = self._rng.choice(kinds)
        name = self._rng.choice(sorted(n for n in victims if n.split("-")[0] == kind))
        blow = self._rng.choice(list(Blow))
        if victims[name].strike(blow):
            self._blows[f"{blow} {name}"] += 1
        if blow is Blow.STOP:
            seconds = self._rng.uniform(*STOPPED_SECONDS)
            task = asyncio.create_task(_resume_after(victims[name], seconds))
            self._resuming.add(task)
            task.add_done_callback(self._resuming.discard)

    # How long until the first 201

    @contextlib.asynccontextmanager
    async def _probing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._probe())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _probe(self) -> None:
        """Measure from the moment at which both servers answer again to the next 201."""
        loop = asyncio.get_running_loop()
        down, up_since = False, None
        while True:
            began = loop.time()
            if not await _answer(self._stack):
                down, up_since = True, None
            elif down:
                down, up_since = False, began
            if up_since is not None and self._load.answered_at > up_since:
                self._recoveries.append(self._load.answered_at - up_since)
                up_since = None
            if not down and up_since is None:
                self._well_at = began
            await asyncio.sleep(_LOOK_SECONDS)

    async def _well(self, give_up: float) -> None:
        """Wait until the servers answer and a task was accepted since."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._well_at < began and loop.time() < give_up:
            await asyncio.sleep(_LOOK_SECONDS)

    # The end

    async def _settled(self, observer: DatabaseObserver, give_up: float) -> None:
        """Wait until all submits are answered and all tasks have ended, until ``give_up``."""
        loop = asyncio.get_running_loop()
        while loop.time() < give_up:
            if not self._load.unanswered and not (await observer.counts()).open:
                return
            await asyncio.sleep(_LOOK_SECONDS * 4)

    async def _report(self, observer: DatabaseObserver) -> TortureReport:
        report = TortureReport(
            sent=self._load.sent,
            accepted=len(self._load.accepted),
            refused=self._load.refused,
            blows=self._blows,
            recoveries=self._recoveries,
        )
        report.judge(self._load.accepted, await observer.final_records())
        return report


async def _resume_after(victim: Victim, seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        victim.resume()


async def _answer(stack: UpStack) -> bool:
    """Return whether Postgres and Valkey both answer a new client."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            async with await psycopg.AsyncConnection.connect(stack.postgres) as connection:
                await connection.execute("SELECT 1")
            async with redis.asyncio.Redis.from_url(stack.redis) as client:
                await client.ping()
    except (OSError, TimeoutError, psycopg.Error, redis.exceptions.RedisError):
        return False
    return True
