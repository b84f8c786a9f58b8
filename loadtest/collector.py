"""Collect OpenTelemetry spans and count them, to measure the cost of tracing.

``python -m loadtest.collector PORT`` accepts OTLP over HTTP. ``GET /spans`` returns the number of
spans received since the previous call. Bodies are decoded only then, to keep receiving cheap.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtest.processes import LoadtestError, end, free_port, spawn, until_up


class SpanCounter:
    """Client of the collector at ``url``."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.url = str(client.base_url).rstrip("/")
        self._client = client

    async def count(self) -> int:
        """Return the number of spans received since the last call."""
        try:
            answer = (await self._client.get("/spans")).raise_for_status()
        except httpx.HTTPError as error:
            raise LoadtestError(f"the span collector is not responding: {error!r}") from error
        spans: int = answer.json()["spans"]
        return spans


@asynccontextmanager
async def span_collector() -> AsyncIterator[SpanCounter]:
    """Run a collector process for the duration of the block.

    Raises:
        LoadtestError: the collector did not start.
    """
    port = free_port()
    process = await spawn(["loadtest.collector", str(port)], {})

    def check() -> None:
        if process.returncode is not None:
            raise LoadtestError(f"the span collector exited with code {process.returncode}")

    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60.0) as client:
            await until_up(client, "/spans", check)
            yield SpanCounter(client)
    finally:
        await end(process)


def _create() -> Starlette:
    bodies: list[bytes] = []

    async def take(request: Request) -> Response:
        bodies.append(await request.body())
        return Response(status_code=200)

    async def count(_: Request) -> Response:
        spans = sum(_spans_in(body) for body in bodies)
        bodies.clear()
        return JSONResponse({"spans": spans})

    return Starlette(routes=[Route("/v1/traces", take, methods=["POST"]), Route("/spans", count)])


def _spans_in(body: bytes) -> int:
    request = ExportTraceServiceRequest.FromString(body)
    return sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans)


if __name__ == "__main__":
    uvicorn.run(_create(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
