"""Prometheus metrics of one role. Each instance has a registry of its own: nothing is global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """What a role counts. Label values are bounded: routes, queues, announced names, outcomes."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        info = self._gauge("role", "Which role this process has", "role")
        info.labels(role).set(1)
        self.spans = self._counter("spans", "Finished spans, by what became of them", "result")
        self.loop_turns = self._counter("loop_turns", "Turns of supervised loops", "loop", "result")
        # API
        self.requests = self._counter(
            "http_requests", "Requests answered", "method", "route", "status"
        )
        self.request_seconds = self._histogram(
            "http_request_seconds", "Time to answer a request", "method", "route"
        )
        self.submitted = self._counter("tasks_submitted", "Submitted tasks", "outcome")
        # Scheduler
        self.dispatched = self._counter("tasks_dispatched", "Tasks moved to QUEUED", "queue")
        self.republished = self._counter("hints_republished", "Hints published again")
        self.amnesia = self._counter("redis_amnesia", "Times Redis was found to be empty")
        self.workers_lost = self._counter("workers_marked_dead", "Workers with an expired lease")
        self.taken_back = self._counter("attempts_taken_back", "Attempts ended for them", "reason")
        self.pruned = self._counter("tasks_pruned", "Tasks deleted after their retention")
        # Worker
        self.slots_free = self._gauge("worker_slots_free", "Handlers that could start now")
        self.claimed = self._counter("attempts_claimed", "Attempts begun", "queue")
        self.claims_refused = self._counter("claims_refused", "Hints that granted nothing")
        self.finished = self._counter("attempts_finished", "Attempts ended", "name", "outcome")
        self.stale_writes = self._counter("stale_writes_refused", "Ends that the fence refused")
        self.leases_lost = self._counter("leases_lost", "Attempts that were no longer ours")
        self.start_seconds = self._histogram("task_start_seconds", "From due to claimed", "queue")
        self.run_seconds = self._histogram("attempt_run_seconds", "Time in the handler", "name")
        self.heartbeat_lag = self._gauge("heartbeat_lag_seconds", "Lateness of the last heartbeat")

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"holdfast_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"holdfast_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"holdfast_{name}", text, labels, registry=self.registry, buckets=_SECONDS)
