"""Read the backlog periodically, for the metrics of every scheduler."""

from __future__ import annotations

from holdfast.model.dispatch import QueueDepth
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.store.resend import BatchSize
from holdfast.store.store import Store
from holdfast.telemetry.metrics import Metrics

_EVERY_SECONDS = 5.0
_CAP = 10_000  # of each count; fewer if Postgres cancels the statement
_QUEUES_MAX = 100
_OTHER = "other"


class BacklogMetrics:
    """A loop that reads the backlog. It does not affect readiness."""

    def __init__(self, store: Store, loops: LoopSupervisor, metrics: Metrics) -> None:
        self._store = store
        self._cap = BatchSize(_CAP)
        self._loops = loops
        self._metrics = metrics
        self._shown: set[str] = set()
        loops.add("watch", self.refresh, stalled_seconds=None)

    async def refresh(self) -> None:
        """Read the backlog once; report zeros for queues seen before that are now empty."""
        backlog = await self._cap.send(self._store.backlog)
        self._metrics.dead_letters.set(backlog.dead_letters)
        self._metrics.stale_write_number.set(backlog.last_stale_write)
        depths: dict[str, list[QueueDepth]] = {name: [] for name in self._shown}
        for depth in backlog.queues:
            depths.setdefault(self._name(depth.queue), []).append(depth)
        for name, found in depths.items():
            self._metrics.backlog.labels(name).set(sum(depth.due for depth in found))
            self._metrics.queued.labels(name).set(sum(depth.queued for depth in found))
            oldest = max((depth.oldest_seconds for depth in found), default=0.0)
            self._metrics.oldest_due.labels(name).set(oldest)
        await self._loops.sleep(_EVERY_SECONDS)

    def _name(self, queue: str) -> str:
        """Return the label of a queue; clients choose queue names, so the labels are bounded."""
        name = queue if queue in self._shown or len(self._shown) < _QUEUES_MAX else _OTHER
        self._shown.add(name)
        return name
