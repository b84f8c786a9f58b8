"""Telemetry of HTTP requests: a log line, two metrics, and a SERVER span if sampled."""

from __future__ import annotations

import time
from functools import cached_property

from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.util.types import AttributeValue
from starlette.types import Scope

from holdfast.instrumentation.telemetry import Telemetry
from holdfast.telemetry import traceparent
from holdfast.telemetry.event_names import ErrorCode, EventName
from holdfast.telemetry.log_limit import LogLimit
from holdfast.telemetry.trace_context import FinishedSpan
from holdfast.telemetry.tracing import Tracing

_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_HEADER = b"traceparent"
_REFUSED_LINES, _REFUSED_SECONDS = 100, 10.0


class RequestTrace:
    """The trace context of a request in progress."""

    def __init__(self, tracing: Tracing, scope: Scope) -> None:
        self.began = time.time_ns()
        self._tracing = tracing
        self.scope = scope
        self._named = False

    @cached_property
    def incoming(self) -> SpanContext | None:
        """The caller's context, None without a valid header."""
        for name, value in self.scope["headers"]:
            if name == _HEADER:
                return traceparent.parse(value.decode("latin-1"))
        return None

    @cached_property
    def context(self) -> SpanContext:
        """The request's own context; it inherits the caller's sampling, else applies the ratio."""
        if self.incoming is not None:
            return self._tracing.child(self.incoming)
        return self._tracing.root()

    @property
    def recorded(self) -> bool:
        """Whether a span will be recorded: if sampled, or if another span links to it."""
        return self._tracing.recording and (self._named or self.context.trace_flags.sampled)

    def name(self) -> SpanContext:
        """Return the context for a link from another span; forces this span to be recorded."""
        self._named = True
        return self.context

    def new_task(self, *, one_of_many: bool) -> str:
        """Return the traceparent of a submitted task: that of its create span.

        If no create span is recorded, it is the caller's traceparent. Each task of a batch starts
        its own trace unless the caller sent a traceparent.
        """
        if one_of_many and self.incoming is None:
            return self._tracing.new_traceparent()
        if self._tracing.recording and self.context.trace_flags.sampled:
            return traceparent.write(self._tracing.child(self.context))
        return traceparent.write(self.incoming or self.context)


class RequestInstrumentation:
    """Emit telemetry of requests: method, route and status, never payloads or API keys."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing
        # Of refused requests, which need no key: anybody could fill the log with them.
        self._refused = LogLimit(_REFUSED_LINES, _REFUSED_SECONDS)

    def began(self, scope: Scope) -> RequestTrace:
        """Start the trace context of a request."""
        return RequestTrace(self._tracing, scope)

    def answered(
        self,
        request: RequestTrace,
        known_method: str | None,
        route: str | None,
        status: int,
        seconds: float,
    ) -> None:
        """Record a served request; ``known_method`` and ``route`` are None if unknown."""
        labels = method, path = known_method or "OTHER", route or "unmatched"
        self._metrics.requests.labels(*labels, str(status)).inc()
        probe = request.scope["path"] in _PROBES
        traced = not probe and request.recorded
        exemplar = {"trace_id": f"{request.context.trace_id:032x}"} if traced else None
        self._metrics.request_seconds.labels(*labels).observe(seconds, exemplar)
        if traced:
            self._tracing.record(
                FinishedSpan(
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
        dropped = self._refused.admit() if 400 <= status < 500 else 0
        if dropped is None:
            return
        level = self._log.debug if probe and status < 400 else self._log.info
        level(
            "Request served",
            event_name=EventName.REQUEST_SERVED,
            method=method,
            route=path,
            status=status,
            seconds=round(seconds, 6),
            **({"dropped": dropped} if dropped else {}),
        )

    def crashed(self, path: str, error: Exception, where: list[str]) -> None:
        """Log an unexpected exception by type and location; its message may contain payloads."""
        self._log.error(
            "Request failed with an unexpected exception",
            event_name=EventName.REQUEST_CRASHED,
            path=path,
            error=type(error).__name__,
            error_code=ErrorCode.OTHER,
            where=where,
        )


def _attributes(
    scope: Scope, known_method: str | None, route: str | None, status: int
) -> dict[str, AttributeValue]:
    """Return attributes by the semantic conventions for HTTP servers, without the query string."""
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
