"""Requests to the API: one line, two metrics, and the SERVER span of those that are recorded."""

from __future__ import annotations

import time
from functools import cached_property

from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.util.types import AttributeValue
from starlette.types import Scope

from observability import traceparent
from observability.event_names import ErrorCode, EventName
from observability.tracing import Finished, Tracing
from system.telling.telemetry import Telemetry

_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_HEADER = b"traceparent"


class Request:
    """One request while it is answered: its place in a trace, and what comes of it there."""

    def __init__(self, tracing: Tracing, scope: Scope) -> None:
        self.began = time.time_ns()
        self._tracing = tracing
        self.scope = scope
        self._named = False

    @cached_property
    def incoming(self) -> SpanContext | None:
        """The caller's context, if it sent a valid one."""
        for name, value in self.scope["headers"]:
            if name == _HEADER:
                return traceparent.parse(value.decode("latin-1"))
        return None

    @cached_property
    def context(self) -> SpanContext:
        """The request's own; the caller decides whether it is sampled, else the ratio."""
        if self.incoming is not None:
            return self._tracing.child(self.incoming)
        return self._tracing.root()

    @property
    def recorded(self) -> bool:
        """Whether there will be a span: it is sampled, or a span of some task names it."""
        return self._tracing.recording and (self._named or self.context.trace_flags.sampled)

    def name(self) -> SpanContext:
        """The context, for a link from elsewhere: so there will be a span."""
        self._named = True
        return self.context

    def new_task(self, *, one_of_many: bool) -> str:
        """The traceparent of a task that this request submits: that of its ``create`` span.

        Without such a span, because it is not sampled or nothing is recorded here, the caller's
        own. Of many each begins a trace of its own, unless the caller brought one.
        """
        if one_of_many and self.incoming is None:
            return self._tracing.new_traceparent()
        if self._tracing.recording and self.context.trace_flags.sampled:
            return traceparent.write(self._tracing.child(self.context))
        return traceparent.write(self.incoming or self.context)


class Requests:
    """What the API tells of its requests. Method, route and status: never payloads or keys."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing

    def began(self, scope: Scope) -> Request:
        """Called when a request has come."""
        return Request(self._tracing, scope)

    def answered(
        self,
        request: Request,
        known_method: str | None,
        route: str | None,
        status: int,
        seconds: float,
    ) -> None:
        """Called when it is over. None: a method, or a path, that nobody knows."""
        labels = method, path = known_method or "OTHER", route or "unmatched"
        self._metrics.requests.labels(*labels, str(status)).inc()
        probe = request.scope["path"] in _PROBES
        traced = not probe and request.recorded
        exemplar = {"trace_id": f"{request.context.trace_id:032x}"} if traced else None
        self._metrics.request_seconds.labels(*labels).observe(seconds, exemplar)
        level = self._log.debug if probe and status < 400 else self._log.info
        level(
            "Request served",
            event_name=EventName.REQUEST_SERVED,
            method=method,
            route=path,
            status=status,
            seconds=round(seconds, 6),
        )
        if traced:
            self._tracing.record(
                Finished(
                    f"{known_method or 'HTTP'} {route or ''}".rstrip(),
                    request.context,
                    request.incoming,
                    request.began,
                    time.time_ns(),
                    SpanKind.SERVER,
                    _attributes(request.scope, known_method, route, status),
                    error=str(status) if status >= 500 else None,
                )
            )

    def broke(self, path: str, error: Exception, where: list[str]) -> None:
        """A bug. Its message and variables may hold payloads: only where it happened is told."""
        self._log.error(
            "Request failed because of a bug",
            event_name=EventName.REQUEST_CRASHED,
            path=path,
            error=type(error).__name__,
            error_code=ErrorCode.OTHER,
            where=where,
        )


def _attributes(
    scope: Scope, known_method: str | None, route: str | None, status: int
) -> dict[str, AttributeValue]:
    """By the conventions for HTTP servers; the query is left out: it is the caller's."""
    attributes: dict[str, AttributeValue] = {
        "http.request.method": known_method or "_OTHER",
        "http.response.status_code": status,
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if route is not None:
        attributes["http.route"] = route
    if known_method is None:
        attributes["http.request.method_original"] = scope["method"]
    if server := scope.get("server"):
        attributes["server.address"] = server[0]
        if server[1] is not None:
            attributes["server.port"] = server[1]
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    return attributes
