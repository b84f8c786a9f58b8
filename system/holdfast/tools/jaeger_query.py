"""Read traces from Jaeger's query API (``/api/traces``, which 1.x and 2.x both serve)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from holdfast.telemetry.spans import Link, Span, SpanEvent

_TIMEOUT_SECONDS = 10.0
_ID_DIGITS = {"trace": 32, "span": 16}  # Jaeger omits leading zeros


class JaegerError(RuntimeError):
    """Jaeger did not answer, or the answer is not Jaeger's; the message names the URL."""


class JaegerQuery:
    """Client of a Jaeger server; an asynchronous context manager."""

    def __init__(self, url: str) -> None:
        """``url``: base URL of the UI and the query API, such as ``http://127.0.0.1:16686``."""
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=self.url, timeout=_TIMEOUT_SECONDS, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    def page(self, trace_id: str) -> str:
        """Return the URL of the UI page of a trace."""
        return f"{self.url}/trace/{trace_id}"

    async def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace received so far; empty if there is no such trace.

        Raises:
            JaegerError: Jaeger did not answer.
        """
        return _spans(await self._get(f"/api/traces/{trace_id}"))

    async def of_task(self, service: str, task_id: str, limit: int = 20) -> list[Span]:
        """Return all spans of the traces in which ``service`` has a span of the task.

        Raises:
            JaegerError: Jaeger did not answer.
        """
        tags = json.dumps({"holdfast.task.id": task_id})
        query = {"service": service, "tags": tags, "limit": str(limit), "start": "0"}
        return _spans(await self._get("/api/traces", query))

    async def between(self, service: str, first: int, last: int) -> list[Span]:
        """Return all spans of the traces in which ``service`` started a span in a time range.

        ``first`` and ``last`` are microseconds since the epoch.

        Raises:
            JaegerError: Jaeger did not answer.
        """
        query = {"service": service, "start": str(first), "end": str(last), "limit": "20"}
        return _spans(await self._get("/api/traces", query))

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        try:
            answer = await self._client.get(path, params=query)
            if answer.status_code == httpx.codes.NOT_FOUND and "errors" in answer.json():
                return []  # Jaeger's answer for an unknown trace
            answer.raise_for_status()
            return answer.json()["data"]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise JaegerError(f"no answer from Jaeger at {self.url}: {reason}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise JaegerError(f"the server at {self.url} is not Jaeger") from error


def _spans(traces: Sequence[Mapping[str, Any]]) -> list[Span]:
    return [
        _span(entry, trace["processes"][entry["processID"]])
        for trace in traces or []
        for entry in trace["spans"]
    ]


def _span(entry: Mapping[str, Any], process: Mapping[str, Any]) -> Span:
    attributes = _values(entry.get("tags"))
    links = [(reference["refType"], _link(reference)) for reference in entry["references"] or []]
    # The parent is the first CHILD_OF reference; all other references are links.
    parent = next((link for kind, link in links if kind == "CHILD_OF"), None)
    return Span(
        trace_id=_id(entry["traceID"], "trace"),
        span_id=_id(entry["spanID"], "span"),
        name=entry["operationName"],
        service=process["serviceName"],
        start=int(entry["startTime"]),
        duration=int(entry["duration"]),
        parent_id=parent.span_id if parent else None,
        instance=str(_values(process.get("tags")).get("service.instance.id", "")),
        error=bool(attributes.get("error")),
        attributes=attributes,
        events=tuple(map(_event, entry.get("logs") or [])),
        links=tuple(link for _, link in links if link is not parent),
    )


def _event(entry: Mapping[str, Any]) -> SpanEvent:
    fields = _values(entry["fields"])
    return SpanEvent(str(fields.pop("event", "")), int(entry["timestamp"]), fields)


def _link(reference: Mapping[str, Any]) -> Link:
    return Link(_id(reference["traceID"], "trace"), _id(reference["spanID"], "span"))


def _id(text: str, kind: str) -> str:
    return text.rjust(_ID_DIGITS[kind], "0")


def _values(tags: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in tags or []}
