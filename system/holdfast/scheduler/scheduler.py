"""The scheduler: dispatch due tasks to the queue, reclaim the attempts of dead workers.

Any number of schedulers are active, without a leader: every statement skips rows that another
scheduler has locked, and all work is level-triggered, so a failed iteration is simply repeated.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from holdfast.errors import Unavailable
from holdfast.instrumentation.scheduler import SchedulerInstrumentation
from holdfast.instrumentation.telemetry import Telemetry
from holdfast.model.dispatch import Republished
from holdfast.queue.hints import HintQueue
from holdfast.runtime.loop_lag import LoopLag
from holdfast.runtime.supervision import LoopSupervisor, wait_for_event
from holdfast.scheduler.backlog_metrics import BacklogMetrics
from holdfast.scheduler.failure_detector import FailureDetector
from holdfast.scheduler.unused_streams import UnusedStreams
from holdfast.settings import Settings
from holdfast.store.resend import BatchSize, send_halving
from holdfast.store.store import Store
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.metrics import Metrics

_DISPATCH_CONNECTIONS = 1
_SWEEP_CONNECTIONS = 6  # one per loop that uses them, so that none waits for another
_REDIS_CONNECTIONS = 5  # dispatch, hints, janitor, streams, poke
_RETRY_SECONDS = 0.05  # due tasks left: the queue is full, or another scheduler has locked them
_POKE_WAIT_SECONDS = 1.0
_PRUNE_EVERY_SECONDS = 60.0
_STALLED_POLLS = 10  # a loop without an iteration for this long, and a statement, is stalled


class Scheduler:
    """One scheduler; ``run`` returns after ``stop``."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._log = telemetry.log
        self._actor = f"scheduler:{settings.label}"
        self._telemetry = SchedulerInstrumentation(telemetry, self._actor)
        name = f"holdfast-{self._actor}"
        self._dispatching = Store(
            settings, connections=_DISPATCH_CONNECTIONS, application_name=name
        )
        self._sweeping = Store(settings, connections=_SWEEP_CONNECTIONS, application_name=name)
        self._queue = HintQueue(settings, connections=_REDIS_CONNECTIONS)
        self._poked = asyncio.Event()
        self._poke_seen = "$"  # the id of the last poke in its Redis stream; "$": none yet
        self._generation_checked = 0.0  # by the loop's clock
        self._generation_known = False
        self._dispatch_batch = BatchSize(settings.dispatch_batch)
        self._republish_batch = BatchSize(settings.sweep_batch)
        self._reclaim_batch = BatchSize(settings.sweep_batch)
        self._prune_batch = BatchSize(settings.sweep_batch)
        self._prune_workers_batch = BatchSize(settings.sweep_batch)
        self._expire_batch = BatchSize(settings.sweep_batch)
        self._mark_batch = BatchSize(settings.sweep_batch)
        self._dead_batch = BatchSize(settings.sweep_batch)
        poll = settings.poll_seconds
        statement = settings.statement_timeout_seconds
        # A lease renewed every heartbeat outlasts an outage of lease - heartbeat; another heartbeat
        # is subtracted as a margin.
        self._gap_seconds = max(2 * poll, settings.lease_seconds - 2 * settings.heartbeat_seconds)
        self._failure_detector = FailureDetector(
            needed_seconds=3 * settings.heartbeat_seconds, gap_seconds=self._gap_seconds
        )
        self.loops = LoopSupervisor(telemetry.log, telemetry.metrics)
        stalled = _STALLED_POLLS * poll + statement
        self.loops.add("dispatch", self._dispatch, stalled_seconds=stalled)
        self.loops.add("sweep", self._sweep, stalled_seconds=stalled)
        self.loops.add("hints", self._republish_late, stalled_seconds=stalled)
        self.loops.add("poke", self._wait_for_poke, stalled_seconds=stalled + _POKE_WAIT_SECONDS)
        self.loops.add(
            "janitor", self._drain_dead_consumers, stalled_seconds=stalled + settings.lease_seconds
        )
        self.loops.add("prune", self._prune, stalled_seconds=stalled + _PRUNE_EVERY_SECONDS)
        UnusedStreams(self._sweeping, self._queue, self.loops)
        self._register_gauges(telemetry.metrics)

    async def run(self) -> None:
        """Run until ``stop`` was called and every iteration has ended."""
        self._log.info("Scheduler started", event_name=EventName.SCHEDULER_STARTED)
        try:
            await self.loops.run()
        finally:
            await self._dispatching.close()
            await self._sweeping.close()
            await self._queue.close()
            self._log.info("Scheduler stopped", event_name=EventName.SCHEDULER_STOPPED)

    def stop(self) -> None:
        """End the loops after their current iterations."""
        self.loops.stop()
        self._poked.set()

    def _register_gauges(self, metrics: Metrics) -> None:
        """Register gauges that do not belong to a transition: backlog, loop lag, connections."""
        BacklogMetrics(self._sweeping, self.loops, metrics)
        LoopLag(self.loops, metrics)
        dispatching, sweeping = self._dispatching, self._sweeping
        metrics.watch_pool("dispatch", dispatching.connections_used, _DISPATCH_CONNECTIONS)
        metrics.watch_pool("sweep", sweeping.connections_used, _SWEEP_CONNECTIONS)

    async def _dispatch(self) -> None:
        """Dispatch one batch; sleep until a task is due, a poke or the end of the poll interval."""
        self._poked.clear()
        await self._check_generation()
        sent = self._telemetry.now()
        batch = self._dispatch_batch
        dispatch = await batch.send(lambda n: self._dispatching.dispatch(n, self._actor))
        if dispatch.tasks:
            with self._telemetry.dispatched(dispatch.tasks, sent) as batch_traceparent:
                await self._queue.publish(dispatch.tasks, batch_traceparent)
        self._generation_known = True
        if len(dispatch.tasks) >= batch.rows:
            return
        seconds = self._settings.poll_seconds
        if (due := dispatch.next_due_seconds) is not None:
            seconds = min(seconds, due if due > 0 else _RETRY_SECONDS)
        if not self.loops.stopping:
            await wait_for_event(self._poked, seconds)

    async def _check_generation(self) -> None:
        """Check that Redis takes hints and has lost none: once per poll interval, and after a
        failed iteration.

        Dispatch waits for this check; otherwise tasks would become QUEUED with no hint for a worker
        to find.
        """
        now = asyncio.get_running_loop().time()
        due = now - self._generation_checked >= self._settings.poll_seconds
        if due or not self._generation_known:
            await self._recover_lost_hints()
            self._generation_checked = now
        self._generation_known = False  # until this iteration has succeeded

    async def _recover_lost_hints(self) -> None:
        """Republish every hint if Redis lost them; set the generation only after that."""
        if await self._queue.renew_generation():
            return
        since, expired, store = await self._dispatching.clock(), 0, self._dispatching
        while found := await self._expire_batch.send(lambda n: store.expire_hints(n, since)):
            expired += found
        self._telemetry.hints_lost(expired)
        while await self._republish(self._dispatching):
            pass
        await self._queue.create_generation()
        self._telemetry.hints_restored()

    async def _sweep(self) -> None:
        """Mark workers dead; reclaim lost and timed-out attempts. Works while Redis is down."""
        loop = asyncio.get_running_loop()
        now = await self._sweeping.clock()
        if self._failure_detector.tick(loop.time(), now):
            dead = await self._mark_batch.send(
                lambda n: self._sweeping.mark_dead(n, now, self._gap_seconds)
            )
            self._failure_detector.answered(loop.time())
            for worker in dead:
                self._telemetry.marked_dead(worker)
        sent = self._telemetry.now()
        reclaimed = await self._reclaim_batch.send(lambda n: self._sweeping.reclaim(n, self._actor))
        self._failure_detector.answered(loop.time())
        if reclaimed:
            self._telemetry.reclaimed(reclaimed, sent)
            self._poked.set()
        await self.loops.sleep(self._settings.poll_seconds)

    async def _republish_late(self) -> None:
        """Republish hints not claimed by their deadline; ``_dispatch`` handles hint loss."""
        if await self._queue.renew_generation():
            await self._republish(self._sweeping)
        await self.loops.sleep(self._settings.poll_seconds)

    async def _republish(self, store: Store) -> list[Republished]:
        sent = self._telemetry.now()
        tasks = await self._republish_batch.send(lambda n: store.republish(n, self._actor))
        if tasks:
            try:
                with self._telemetry.republished(tasks, sent) as batch_traceparent:
                    await self._queue.publish(tasks, batch_traceparent)
            except Unavailable:
                # Deadlines that double while Redis refuses hints would outlast its outage.
                ids = [task.task_id for task in tasks]
                await send_halving(ids, store.restart_hint_deadlines)
                raise
        return tasks

    async def _wait_for_poke(self) -> None:
        """Wait for a poke through Redis, which ends the sleep of ``_dispatch`` early."""
        seen = await self._queue.wait_poke(self._poke_seen, _POKE_WAIT_SECONDS)
        if seen != self._poke_seen:
            self._poke_seen = seen
            self._poked.set()

    async def _drain_dead_consumers(self) -> None:
        """Move hints that a dead incarnation read but did not claim back to their streams."""
        for queue in await self._queues_of_dead_workers():
            consumers = await self._queue.consumers(queue)
            for worker in await send_halving(consumers, self._sweeping.dead_workers):
                moved = await self._queue.drain(queue, worker)
                self._telemetry.drained(worker, queue, moved)
        await self.loops.sleep(self._settings.lease_seconds / 3)

    async def _queues_of_dead_workers(self) -> list[str]:
        queues: set[str] = set()
        after = UUID(int=0)
        while found := await self._dead_batch.send(
            lambda n: self._sweeping.queues_of_dead_workers(n, after)  # noqa: B023  awaited here
        ):
            queues.update(*found.values())
            after = max(found)
        return sorted(queues)

    async def _prune(self) -> None:
        """Announce the queues of the setting; delete tasks past their retention."""
        if self._settings.known_queues:
            await self._sweeping.announce_queues(self._settings.known_queues)
        pruned = await self._prune_batch.send(self._sweeping.prune)
        self._telemetry.pruned(pruned)
        workers = await self._prune_workers_batch.send(self._sweeping.prune_workers)
        if pruned < self._prune_batch.rows and workers < self._prune_workers_batch.rows:
            await self.loops.sleep(_PRUNE_EVERY_SECONDS)
