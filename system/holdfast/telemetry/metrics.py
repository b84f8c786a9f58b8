"""Prometheus metrics of one role. Each instance has its own registry: nothing is global.

The process that commits a transition counts it. Names carry base units; counters are exposed with
the suffix ``_total``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from holdfast.telemetry.histogram import Histogram, Series

_CHILDREN_MAX = 300
_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1, 2, 5, 10, 30, 60, 300, 1800),
)
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

Child = TypeVar("Child")
Made_co = TypeVar("Made_co", covariant=True)


class _Parent(Protocol[Made_co]):
    def labels(self, *values: str) -> Made_co: ...


class Labelled(Generic[Child]):
    """A metric with labels whose children are cached: one dict lookup per observation.

    Cardinality is capped at 300 combinations of values, since clients choose the names of queues;
    further combinations count under ``other``.
    """

    __slots__ = ("_children", "_metric", "_names")

    def __init__(self, metric: _Parent[Child], names: tuple[str, ...]) -> None:
        self._metric = metric
        self._names = names
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """Return the child for label values given in the order of the label names."""
        child = self._children.get(values)
        return self._made(values) if child is None else child

    def _made(self, values: tuple[str, ...]) -> Child:
        if len(self._children) >= _CHILDREN_MAX:
            return self._metric.labels(*("other" for _ in self._names))
        self._children[values] = child = self._metric.labels(*values)
        return child


class Metrics:
    """The metrics of a role. Label values are bounded: routes, queues, names, outcomes."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        self._exposed = _WithoutCreated(self.registry)
        ProcessCollector(registry=self.registry)
        self._set_build_info(role)
        # Every role
        self.loop_turns = self._counter(
            "loop_turns", "Iterations of supervised loops", "loop", "result"
        )
        self.loop_success = self._gauge(
            "loop_last_success_timestamp_seconds",
            "Unix time of the last successful iteration of a supervised loop, or of its start",
            "loop",
        )
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds",
            "Delay of the event loop in waking a sleeping coroutine",
            bounds=_LAG_SECONDS,
        ).labels()
        self.finished = self._counter(
            "tasks_finished", "Tasks that this process made terminal", "queue", "outcome"
        )
        self._pool_used = Gauge(
            "holdfast_db_pool_checked_out",
            "Connections of a pool in use",
            ["pool"],
            registry=self.registry,
        )
        self._pool_size = self._gauge("db_pool_size", "Maximum connections of a pool", "pool")
        self.spans = self._counter(
            "spans", "Finished spans, by the result of their export", "result"
        )
        for result in ("exported", "dropped", "lost", "refused"):
            self.spans.labels(result)  # rate() needs a first sample of 0
        self._add_api()
        self._add_scheduler()
        self._add_worker()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the body of a scrape and its content type.

        ``accept``: the request's header. Exemplars are included only if it asks for OpenMetrics.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._exposed), content_type

    def watch_pool(self, pool: str, used: Callable[[], int], size: int) -> None:
        """Expose the size of a connection pool and the connections in use at each scrape."""
        self._pool_used.labels(pool).set_function(used)
        self._pool_size.labels(pool).set(size)

    def _add_api(self) -> None:
        self.requests = self._counter(
            "http_requests", "Requests answered", "method", "route", "status"
        )
        self.request_seconds = self._histogram(
            "http_request_duration_seconds", "Time to answer a request", "method", "route"
        )
        self.submitted = self._counter("tasks_submitted", "Tasks submitted", "queue", "outcome")

    def _add_scheduler(self) -> None:
        self.dispatched = self._counter("tasks_dispatched", "Tasks moved to QUEUED", "queue")
        self.republished = self._plain_counter(
            "hints_republished", "Hints published again at their deadline"
        )
        self.hint_losses = self._plain_counter(
            "redis_amnesia", "Losses of all hints in Redis that were repaired"
        )
        self.workers_lost = self._plain_counter(
            "workers_marked_dead", "Workers marked dead after their lease expired"
        )
        self.reclaimed = self._counter(
            "attempts_taken_back", "Attempts ended by a scheduler for their worker", "reason"
        )
        self.pruned = self._plain_counter("tasks_pruned", "Tasks deleted after their retention")
        self.backlog = self._gauge(
            "backlog_tasks", "Due tasks not dispatched yet (counted up to 10,000)", "queue"
        )
        self.queued = self._gauge(
            "queued_tasks", "Tasks dispatched but not claimed yet (counted up to 10,000)", "queue"
        )
        self.oldest_due = self._gauge(
            "oldest_due_age_seconds", "Time since the oldest unclaimed task was due", "queue"
        )
        self.dead_letters = Gauge(
            "holdfast_dead_letter_tasks",
            "FAILED tasks (counted up to 10,000)",
            registry=self.registry,
        )
        # From the database: the worker that was refused often exits before the next scrape.
        self.stale_write_number = Gauge(
            "holdfast_stale_write_number",
            "Sequence number of the latest stale write refused by the fence",
            registry=self.registry,
        )

    def _add_worker(self) -> None:
        self.slots = Gauge(
            "holdfast_worker_slots",
            "Maximum number of handlers running concurrently",
            registry=self.registry,
        )
        self.slots_free = Gauge(
            "holdfast_worker_slots_free", "Handlers that could start now", registry=self.registry
        )
        self.slots_dead = Gauge(
            "holdfast_worker_slots_dead",
            "Slots kept by handlers that do not end although their attempt has ended",
            registry=self.registry,
        )
        self.claimed = self._counter("attempts_claimed", "Attempts started", "queue")
        self.claims_refused = self._plain_counter(
            "claims_refused", "Hints whose task could not be claimed"
        )
        self.attempts = self._counter(
            "attempts_finished", "Attempts ended by their worker", "queue", "name", "outcome"
        )
        self.unhandled = self._counter(
            "attempts_unhandled",
            "Attempts released because their worker has no handler for the name",
            "queue",
            "name",
        )
        self.stale_writes = self._plain_counter(
            "stale_writes_refused", "Ends of attempts that the fence refused"
        )
        self.leases_lost = self._plain_counter(
            "leases_lost", "Attempts stopped because their worker no longer owned them"
        )
        self.start_seconds = self._histogram(
            "task_start_delay_seconds", "From due to claimed", "queue"
        )
        self.queue_seconds = self._histogram(
            "task_queue_wait_seconds", "From dispatched to claimed", "queue"
        )
        self.run_seconds = self._histogram(
            "attempt_run_seconds", "Time in the handler", "queue", "name"
        )
        self.task_seconds = self._histogram(
            "task_duration_seconds", "From first due to SUCCEEDED", "queue"
        )
        self.heartbeat_seconds = Gauge(
            "holdfast_heartbeat_duration_seconds",
            "Round trip of the last heartbeat",
            registry=self.registry,
        )

    def _set_build_info(self, role: str) -> None:
        info = self._gauge(
            "build_info", "Constant 1, labelled with role and versions", "role", "version", "python"
        )
        info.labels(role, version("holdfast"), platform.python_version()).set(1)

    def _plain_counter(self, name: str, text: str) -> Counter:
        return Counter(f"holdfast_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Labelled[Counter]:
        metric = Counter(f"holdfast_{name}", text, labels, registry=self.registry)
        return Labelled(metric, labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Labelled[Gauge]:
        metric = Gauge(f"holdfast_{name}", text, labels, registry=self.registry)
        return Labelled(metric, labels)

    def _histogram(
        self, name: str, text: str, *labels: str, bounds: tuple[float, ...] = _SECONDS
    ) -> Labelled[Series]:
        metric = Histogram(f"holdfast_{name}", text, labels, bounds)
        self.registry.register(metric)
        return Labelled(metric, labels)


class _WithoutCreated(Collector):
    """A registry without the ``_created`` series, which would double the number of series.

    prometheus_client can omit them only for all registries of a process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            kept = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            slim = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            slim.samples = kept
            yield slim
