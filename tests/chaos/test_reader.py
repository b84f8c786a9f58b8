"""What a role says at /metrics is recorded, whatever it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chaos.history.records import decode, encode
from chaos.history.rest import MetricSample, Scrape
from chaos.run.reader import scrape
from holdfast.runtime.health import start_server, stop_server

GOOD = """\
# TYPE holdfast_tasks_submitted_total counter
holdfast_tasks_submitted_total{queue="default"} 3.0
holdfast_task_duration_seconds_bucket{le="1"} 2.0
process_start_time_seconds 7.0
"""


@asynccontextmanager
async def role(text: str, status: int = 200) -> AsyncIterator[str]:
    async def metrics(_: Request) -> Response:
        return Response(text, status_code=status)

    app = Starlette(routes=[Route("/metrics", metrics)])
    server, serving = await start_server(app, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await stop_server(server, serving)


async def test_samples_of_the_product_are_recorded() -> None:
    async with role(GOOD) as url:
        found = await scrape(url, "api-1", 5.0)
    sample = MetricSample(
        name="holdfast_tasks_submitted_total", labels={"queue": "default"}, value=3.0
    )
    assert found == Scrape(actor="api-1", at=5.0, status=200, samples=(sample,))


@pytest.mark.parametrize(
    "text",
    [
        "holdfast_tasks_submitted_total{",
        'holdfast_x{queue="a} 3',
        "holdfast_x three",
        "holdfast_x 3 four",
        "holdfast_x NaN",
        "holdfast_x +Inf",
        "<html>",
        "{}",
    ],
)
async def test_answer_that_is_no_exposition_is_recorded_as_such(text: str) -> None:
    async with role(text) as url:
        found = await scrape(url, "api-1", 5.0)
    assert found.status == 200
    assert found.error.startswith("not an exposition: ")
    assert decode(encode(found)) == found


async def test_refusal_is_recorded_with_its_status() -> None:
    async with role("no key", 401) as url:
        assert (await scrape(url, "api-1", 5.0)).status == 401


async def test_role_that_does_not_answer_is_recorded() -> None:
    async with role(GOOD) as url:
        pass
    found = await scrape(url, "api-1", 5.0)
    assert found.status == 0
    assert "ConnectError" in found.error
