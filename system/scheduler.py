"""The scheduler: moves due tasks to the queue, and sweeps up after everything that died.

Any number of schedulers, all active, no leader: every statement skips what another one holds, and
everything is level-triggered, so a turn that failed is simply taken again.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from uuid import uuid4

from observability.event_names import EventName
from observability.metrics import Metrics
from system.loops import Loops, wait_for_event
from system.pulse import Pulse
from system.queue import HintQueue
from system.records import Republished
from system.settings import Settings
from system.store import Store
from system.telling.dispatches import Dispatches
from system.telling.telemetry import Telemetry
from system.watch import Watch

_DISPATCH_CONNECTIONS = 1
_SWEEP_CONNECTIONS = 5  # sweep, hints, janitor, prune, watch: none waits for another
_REDIS_CONNECTIONS = 4  # dispatch, hints, janitor, poke
_RETRY_SECONDS = 0.05  # due tasks that found no room, or that another scheduler holds
_POKE_WAIT_SECONDS = 1.0
_PRUNE_EVERY_SECONDS = 60.0
_CLOCK_JUMP_SECONDS = 1.0
_STALLED_POLLS = 10


class Steadiness:
    """Whether this scheduler may call others dead: it ticked without a gap for long enough.

    After its own pause, an outage of Postgres or a jump of the database's clock every lease looks
    expired at once. Live workers need a heartbeat or two to show themselves before anyone judges.
    """

    def __init__(self, *, needed_seconds: float, gap_seconds: float) -> None:
        self._needed_seconds = needed_seconds
        self._gap_seconds = gap_seconds
        self._since: float | None = None
        self._answered = 0.0
        self._clocks: tuple[float, datetime] | None = None

    def tick(self, now: float, database_now: datetime) -> bool:
        """Notes both clocks, just read (``now``: monotonic seconds); whether steady long enough."""
        self.answered(now)
        if self._clocks is not None:
            jump = abs((database_now - self._clocks[1]).total_seconds() - (now - self._clocks[0]))
            if jump > _CLOCK_JUMP_SECONDS:
                self._since = None
        if self._since is None:
            self._since = now
        self._clocks = (now, database_now)
        return now - self._since >= self._needed_seconds

    def answered(self, now: float) -> None:
        """Notes that Postgres answered at ``now``: one that is slow is not one that is away."""
        if now - self._answered > self._gap_seconds:
            self._since = None
        self._answered = now


class Scheduler:
    """One scheduler process; ``run`` until ``stop``."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._log = telemetry.log
        self._actor = f"scheduler:{settings.label}"
        self._telling = Dispatches(telemetry, self._actor)
        name = f"holdfast-{self._actor}"
        self._dispatching = Store(
            settings, connections=_DISPATCH_CONNECTIONS, application_name=name
        )
        self._sweeping = Store(settings, connections=_SWEEP_CONNECTIONS, application_name=name)
        self._queue = HintQueue(settings, connections=_REDIS_CONNECTIONS)
        self._poked = asyncio.Event()
        self._poke_seen = "$"
        self._asked = 0.0
        self._in_doubt = True
        poll = settings.poll_seconds
        statement = settings.statement_timeout_seconds
        # A worker whose lease is renewed every heartbeat outlives an outage of lease - heartbeat;
        # one heartbeat of that is left as a margin.
        self._gap_seconds = max(2 * poll, settings.lease_seconds - 2 * settings.heartbeat_seconds)
        self._steadiness = Steadiness(
            needed_seconds=3 * settings.heartbeat_seconds, gap_seconds=self._gap_seconds
        )
        self.loops = Loops(telemetry.log, telemetry.metrics)
        stalled = _STALLED_POLLS * poll + statement
        self.loops.add("dispatch", self._dispatch, stalled_seconds=stalled)
        self.loops.add("sweep", self._sweep, stalled_seconds=stalled)
        self.loops.add("hints", self._publish_late, stalled_seconds=stalled)
        self.loops.add("poke", self._listen, stalled_seconds=stalled + _POKE_WAIT_SECONDS)
        self.loops.add("janitor", self._bury_dead, stalled_seconds=stalled + settings.lease_seconds)
        self.loops.add("prune", self._prune, stalled_seconds=stalled + _PRUNE_EVERY_SECONDS)
        self._show_health(telemetry.metrics)

    async def run(self) -> None:
        """Returns after ``stop``, when every turn under way has ended."""
        self._log.info("Scheduler started", event_name=EventName.SCHEDULER_STARTED)
        try:
            await self.loops.run()
        finally:
            await self._dispatching.close()
            await self._sweeping.close()
            await self._queue.close()
            self._log.info("Scheduler stopped", event_name=EventName.SCHEDULER_STOPPED)

    def stop(self) -> None:
        """Ends the loops after their present turn."""
        self.loops.stop()
        self._poked.set()

    def _show_health(self, metrics: Metrics) -> None:
        """What nobody's transition tells: how much waits, the event loop, connections."""
        Watch(self._sweeping, self.loops, metrics)
        Pulse(self.loops, metrics)
        dispatching, sweeping = self._dispatching, self._sweeping
        metrics.watch_pool("dispatch", dispatching.connections_used, _DISPATCH_CONNECTIONS)
        metrics.watch_pool("sweep", sweeping.connections_used, _SWEEP_CONNECTIONS)

    async def _dispatch(self) -> None:
        """One batch of due tasks; sleeps until the next one is due, a poke, or the poll."""
        self._poked.clear()
        await self._remembered()
        sent = self._telling.now()
        batch = self._settings.dispatch_batch
        dispatch = await self._dispatching.dispatch(batch, self._actor)
        if dispatch.tasks:
            with self._telling.dispatched(dispatch.tasks, sent) as hints:
                await self._queue.publish(hints)
        self._in_doubt = False
        if len(dispatch.tasks) >= batch:
            return
        due, poll = dispatch.next_due_seconds, self._settings.poll_seconds
        seconds = poll if due is None else min(poll, max(due, _RETRY_SECONDS if due <= 0 else 0))
        if not self.loops.stopping:
            await wait_for_event(self._poked, seconds)

    async def _remembered(self) -> None:
        """Asks Redis what it remembers: at each poll, and after a turn that failed.

        Nothing is dispatched before it answers: else the backlog would go where nobody hears of it.
        """
        now = asyncio.get_running_loop().time()
        if self._in_doubt or now - self._asked >= self._settings.poll_seconds:
            await self._heal_amnesia()
            self._asked = now
        self._in_doubt = True  # until this turn has ended well

    async def _heal_amnesia(self) -> None:
        """Publishes every hint again when Redis lost its memory; marks it only afterwards."""
        if await self._queue.generation() is not None:
            return
        expired = await self._dispatching.expire_hints()
        self._telling.forgotten(expired)
        while await self._republish(self._dispatching):
            pass
        await self._queue.set_generation(str(uuid4()))
        self._telling.remembered()

    async def _sweep(self) -> None:
        """Dead workers and their attempts. Needs no Redis: its outage must not hide the dead."""
        batch, loop = self._settings.sweep_batch, asyncio.get_running_loop()
        now = await self._sweeping.clock()
        if self._steadiness.tick(loop.time(), now):
            dead = await self._sweeping.mark_dead(batch, now, self._gap_seconds)
            self._steadiness.answered(loop.time())
            for worker in dead:
                self._telling.died(worker)
        sent = self._telling.now()
        ends = await self._sweeping.take_back(batch, self._actor)
        self._steadiness.answered(loop.time())
        if ends:
            self._telling.taken_back(ends, sent)
            self._poked.set()
        await self.loops.sleep(self._settings.poll_seconds)

    async def _publish_late(self) -> None:
        """Hints that nobody claimed by their deadline; an empty Redis is for ``_dispatch``."""
        if await self._queue.generation() is not None:
            await self._republish(self._sweeping)
        await self.loops.sleep(self._settings.poll_seconds)

    async def _republish(self, store: Store) -> list[Republished]:
        sent = self._telling.now()
        tasks = await store.republish(self._settings.sweep_batch, self._actor)
        if tasks:
            with self._telling.republished(tasks, sent) as hints:
                await self._queue.publish(hints)
        return tasks

    async def _listen(self) -> None:
        """A poke through Redis is only a short cut past the sleep of ``_dispatch``."""
        seen = await self._queue.wait_poke(self._poke_seen, _POKE_WAIT_SECONDS)
        if seen != self._poke_seen:
            self._poke_seen = seen
            self._poked.set()

    async def _bury_dead(self) -> None:
        """Hints that a dead incarnation read but never claimed go to the living."""
        for queue in await self._queue.queues():
            consumers = await self._queue.consumers(queue)
            for worker in await self._sweeping.dead_workers(consumers):
                moved = await self._queue.bury(queue, worker)
                self._telling.buried(worker, queue, moved)
        await self.loops.sleep(self._settings.lease_seconds / 3)

    async def _prune(self) -> None:
        """Deletes what is past its retention."""
        pruned = await self._sweeping.prune(self._settings.sweep_batch)
        self._telling.pruned(pruned)
        if pruned < self._settings.sweep_batch:
            await self._sweeping.prune_workers()
            await self.loops.sleep(_PRUNE_EVERY_SECONDS)
