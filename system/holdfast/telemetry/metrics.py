"""Prometheus metrics of one role. Each instance has a registry of its own: nothing is global.

Whoever makes a transition counts it (see README.md for what each metric means). Seconds in names
are seconds; a counter's name ends in ``_total`` when it is exposed.
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
    """A metric with labels, its children at hand: one look into a dict for each that is counted.

    At most 300 combinations of values: whatever comes later counts under ``other``, since names of
    queues come from clients.
    """

    __slots__ = ("_children", "_metric", "_names")

    def __init__(self, metric: _Parent[Child], names: tuple[str, ...]) -> None:
        self._metric = metric
        self._names = names
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """The child of these values, in the order of the names."""
        child = self._children.get(values)
        return self._made(values) if child is None else child

    def _made(self, values: tuple[str, ...]) -> Child:
        if len(self._children) >= _CHILDREN_MAX:
            return self._metric.labels(*("other" for _ in self._names))
        self._children[values] = child = self._metric.labels(*values)
        return child


class Metrics:
    """What a role counts. Label values are bounded: routes, queues, announced names, outcomes."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        self._exposed = _WithoutCreated(self.registry)
        ProcessCollector(registry=self.registry)
        self._set_build_info(role)
        # Every role
        self.loop_turns = self._counter("loop_turns", "Turns of supervised loops", "loop", "result")
        self.loop_success = self._gauge(
            "loop_last_success_timestamp_seconds",
            "Unix time of the last turn of a supervised loop that ended well, or of its start",
            "loop",
        )
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop woke a sleeper", bounds=_LAG_SECONDS
        ).labels()
        self.finished = self._counter(
            "tasks_finished", "Tasks that became terminal by this process", "queue", "outcome"
        )
        self._pool_used = Gauge(
            "holdfast_db_pool_checked_out",
            "Connections of a pool in use",
            ["pool"],
            registry=self.registry,
        )
        self._pool_size = self._gauge("db_pool_size", "Connections a pool may have", "pool")
        self.spans = self._counter("spans", "Finished spans, by what became of them", "result")
        for result in ("exported", "dropped", "lost", "refused"):
            self.spans.labels(result)  # there from the start: an increase from nothing is none
        self._add_api()
        self._add_scheduler()
        self._add_worker()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """What Prometheus scrapes, and its content type.

        ``accept``: the request's header. OpenMetrics, which alone has exemplars, if it asks so.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._exposed), content_type

    def watch_pool(self, pool: str, used: Callable[[], int], size: int) -> None:
        """Shows how many connections of a pool are in use, as asked at each scrape."""
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
        self.republished = self._plain_counter("hints_republished", "Hints published again")
        self.amnesia = self._plain_counter("redis_amnesia", "Times Redis was found to be empty")
        self.workers_lost = self._plain_counter(
            "workers_marked_dead", "Workers whose lease had expired"
        )
        self.reclaimed = self._counter(
            "attempts_taken_back", "Attempts ended for their worker", "reason"
        )
        self.pruned = self._plain_counter("tasks_pruned", "Tasks deleted after their retention")
        self.backlog = self._gauge(
            "backlog_tasks", "Due tasks that wait in Postgres (counted up to 10,000)", "queue"
        )
        self.queued = self._gauge(
            "queued_tasks", "Tasks QUEUED: dispatched, not claimed yet (up to 10,000)", "queue"
        )
        self.oldest_due = self._gauge(
            "oldest_due_age_seconds", "How long the oldest task that should run waits", "queue"
        )
        self.dead_letters = Gauge(
            "holdfast_dead_letter_tasks",
            "Tasks in the dead letter (counted up to 10,000)",
            registry=self.registry,
        )

        # By the database, for whoever was refused is often a worker that ends before it is scraped.
        self.stale_write_number = Gauge(
            "holdfast_stale_write_number",
            "Number of the newest refused write in the database; it grows by one for each",
            registry=self.registry,
        )

    def _add_worker(self) -> None:
        self.slots = Gauge(
            "holdfast_worker_slots", "Handlers that may run at once", registry=self.registry
        )
        self.slots_free = Gauge(
            "holdfast_worker_slots_free", "Handlers that could start now", registry=self.registry
        )
        self.claimed = self._counter("attempts_claimed", "Attempts begun", "queue")
        self.claims_refused = self._plain_counter("claims_refused", "Hints that granted nothing")
        self.attempts = self._counter(
            "attempts_finished", "Attempts ended by their worker", "queue", "name", "outcome"
        )
        self.stale_writes = self._plain_counter(
            "stale_writes_refused", "Ends of attempts that the fence refused"
        )
        self.leases_lost = self._plain_counter(
            "leases_lost", "Attempts whose worker learnt that they were no longer its own"
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
            "task_duration_seconds", "From the instant it first was to run to SUCCEEDED", "queue"
        )
        self.heartbeat_seconds = Gauge(
            "holdfast_heartbeat_duration_seconds",
            "How long the last heartbeat took to be answered",
            registry=self.registry,
        )

    def _set_build_info(self, role: str) -> None:
        info = self._gauge(
            "build_info", "1; which program this process is", "role", "version", "python"
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
    """A registry without the ``_created`` series, which would double all others.

    (The library can leave them out itself, but only for all registries of a process at once.)
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            kept = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            slim = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            slim.samples = kept
            yield slim
