"""The export of spans: in the background and bounded, however the collector behaves."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from otlp_receiver import receiving
from waiting import until

from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.export import BATCH_MAX, QUEUE_MAX
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import span_destination
from holdfast.telemetry.trace_context import FinishedSpan
from holdfast.telemetry.tracing import Tracing, create_tracing

NOWHERE = "http://127.0.0.1:1"
NONE: Mapping[str, str] = {}


class Traced:
    """Tracing to an endpoint, with its metrics and log."""

    def __init__(
        self, endpoint: str, export_seconds: float = 0.05, variables: Mapping[str, str] = NONE
    ) -> None:
        self.metrics = Metrics("test")
        self.log = io.StringIO()
        log = create_logger(style="json", stream=self.log)
        self.tracing: Tracing = create_tracing(
            span_destination(endpoint, variables),
            1.0,
            self.metrics,
            log,
            role="test",
            label="test-1",
            version="1.2.3",
            export_seconds=export_seconds,
        )

    def end(self, count: int = 1, name: str = "step") -> None:
        """Record ``count`` ended spans."""
        for _ in range(count):
            context = self.tracing.root()
            self.tracing.record(
                FinishedSpan(name, context, None, 10, 20, SpanKind.CLIENT, {"n": 1})
            )

    def count(self, result: str) -> float:
        labels = {"result": result}
        return self.metrics.registry.get_sample_value("holdfast_spans_total", labels) or 0.0

    async def until(self, result: str, count: int) -> None:
        await until(lambda: self.count(result) == count)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def logged(self) -> list[str]:
        return [line["event_name"] for line in self.lines()]


@contextlib.asynccontextmanager
async def traced(
    endpoint: str, export_seconds: float = 0.05, variables: Mapping[str, str] = NONE
) -> AsyncIterator[Traced]:
    made = Traced(endpoint, export_seconds, variables)
    made.tracing.start()
    try:
        yield made
    finally:
        await made.tracing.aclose()


async def test_spans_arrive_as_recorded() -> None:
    async with receiving() as collector, traced(collector.url) as exporter:
        parent = exporter.tracing.root()
        context = exporter.tracing.child(parent)
        link = exporter.tracing.root()
        exporter.tracing.record(
            FinishedSpan(
                "GET", context, parent, 10, 20, SpanKind.CLIENT, {"a": 1}, (link,), error="no"
            )
        )
        (span,) = await collector.until("GET")
    assert (span.service, span.instance) == ("holdfast-test", "test-1")
    assert span.key == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert span.parent_id == f"{parent.span_id:016x}"
    assert (span.kind, span.start, span.end, span.error) == ("CLIENT", 10, 20, True)
    assert span.attributes == {"a": 1, "error.type": "no"}
    assert span.links == [(f"{link.trace_id:032x}", f"{link.span_id:016x}")]
    assert collector.paths == {"/v1/traces"}
    assert collector.content_types == {"application/x-protobuf"}


async def test_full_batches_are_sent_before_the_interval() -> None:
    async with receiving() as collector, traced(collector.url, export_seconds=3600) as exporter:
        exporter.end(2 * BATCH_MAX)
        await until(lambda: len(collector.spans) == 2 * BATCH_MAX)
        assert collector.posts == 2
    assert exporter.count("exported") == 2 * BATCH_MAX


async def test_remaining_spans_are_sent_on_close() -> None:
    async with receiving() as collector:
        async with traced(collector.url, export_seconds=3600) as exporter:
            exporter.end(BATCH_MAX + 3)
        assert len(collector.spans) == BATCH_MAX + 3


async def test_close_before_the_first_export_sends_spans() -> None:
    async with receiving() as collector:
        exporter = Traced(collector.url)
        exporter.end()
        exporter.tracing.start()
        await exporter.tracing.aclose()
        assert len(collector.spans) == 1


async def test_queue_is_bounded_and_drops_the_newest() -> None:
    async with receiving("paused") as collector:
        async with traced(collector.url, export_seconds=3600) as exporter:
            exporter.end(QUEUE_MAX, "old")
            exporter.end(10, "new")
            assert exporter.count("dropped") == 10
            collector.answer = "ok"
        assert len(collector.named("old")) == QUEUE_MAX
        assert collector.named("new") == []


@pytest.mark.parametrize(
    "answer", ["500", "garbage", "broken off", "empty", "no gzip", "paused", "dripping", "endless"]
)
async def test_bad_answer_loses_only_spans(answer: str) -> None:
    async with receiving(answer) as collector, traced(collector.url) as exporter:
        exporter.end()
        await until(lambda: exporter.count("lost") + exporter.count("exported") == 1)
        assert collector.posts <= 2, "at most two tries"
        collector.answer = "ok"
        exporter.end(1, "later")
        await collector.until("later")
    troubled = EventName.COLLECTOR_FAILED in exporter.logged()
    assert troubled == (exporter.count("lost") == 1)
    assert troubled == (EventName.COLLECTOR_RECOVERED in exporter.logged())


async def test_refused_batch_is_not_resent_and_the_reason_is_logged() -> None:
    async with receiving("401") as collector, traced(collector.url) as exporter:
        for refused in range(1, 4):
            exporter.end()
            await exporter.until("refused", refused)
            assert collector.posts == refused
        collector.answer = "ok"
        exporter.end(1, "later")
        await collector.until("later")
        await until(lambda: exporter.count("exported") == 1)
    first, last = exporter.lines()
    assert (first["event_name"], first["error_code"]) == ("collector_refused",) * 2
    assert first["error"] == "HTTP status 401 no such key"
    assert last["event_name"] == "collector_recovered"


async def test_spans_rejected_by_a_partial_success_count_as_refused() -> None:
    async with receiving("partial") as collector, traced(collector.url) as exporter:
        exporter.end(3)
        await until(lambda: exporter.count("refused") == 2)
        assert exporter.count("exported") == 1
    (line,) = exporter.lines()
    assert line["error"] == "2 of 3 spans: too old"


async def test_flapping_collector_does_not_flood_the_log() -> None:
    async with receiving() as collector, traced(collector.url) as exporter:
        for turn in range(1, 4):
            for answer, result in (("400", "refused"), ("ok", "exported")):
                collector.answer = answer
                exporter.end()
                await exporter.until(result, turn)
    assert exporter.logged() == ["collector_refused", "collector_recovered"]


async def test_variables_of_opentelemetry_reach_the_collector() -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=a%20b,Authorization=Basic c2VjcmV0",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod,service.instance.id=i-7",
        "OTEL_SERVICE_NAME": "shop",
    }
    async with (
        receiving() as collector,
        traced(
            "", variables=variables | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        ) as exporter,
    ):
        exporter.end()
        (span,) = await collector.until("step")
    assert (span.service, span.instance) == ("shop", "i-7")
    assert span.resource["deployment.environment.name"] == "prod"
    assert span.resource["service.version"] == "1.2.3"
    assert collector.headers["x-team"] == "a b"
    assert collector.headers["authorization"] == "Basic c2VjcmV0"
    assert collector.headers["content-encoding"] == "gzip"
    assert collector.paths == {"/v1/traces"}


async def test_failed_batch_is_resent_complete() -> None:
    async with receiving("500") as collector, traced(collector.url) as exporter:
        exporter.end(3)
        await until(lambda: collector.posts == 1)
        collector.answer = "ok"
        await until(lambda: len(collector.spans) == 3)
    assert exporter.count("exported") == 3


async def test_unreachable_collector() -> None:
    async with traced(NOWHERE) as exporter:
        exporter.end(5)
        await until(lambda: exporter.count("lost") == 5)
        assert exporter.logged().count(EventName.COLLECTOR_FAILED) == 1


async def test_close_is_bounded_while_the_collector_is_paused() -> None:
    async with receiving("paused") as collector:
        async with traced(collector.url) as exporter:
            exporter.end(QUEUE_MAX)
            await until(lambda: collector.posts == 1)
        assert collector.posts <= 2, "it did not wait for each batch"
        results = ("lost", "dropped", "exported")
        assert sum(map(exporter.count, results)) == QUEUE_MAX, "every span is accounted for"


async def test_spans_ended_after_close_are_dropped() -> None:
    async with receiving() as collector:
        async with traced(collector.url) as exporter:
            pass
        exporter.end()
    assert exporter.count("dropped") == 1


async def test_spans_may_end_in_other_threads() -> None:
    async with receiving() as collector, traced(collector.url, export_seconds=3600) as exporter:
        await asyncio.to_thread(exporter.end, BATCH_MAX)
        await until(lambda: len(collector.spans) == BATCH_MAX)


async def test_unencodable_span_does_not_affect_later_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with receiving() as collector, traced(collector.url) as exporter:
        context = exporter.tracing.root()
        exporter.tracing.record(FinishedSpan("bad", context, None, -1, 20))
        await until(lambda: exporter.count("lost") == 1)
        exporter.end(1, "good")
        await collector.until("good")
    assert EventName.SPANS_UNENCODABLE in exporter.logged()


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://collector", "http://"])
def test_invalid_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="not an HTTP URL"):
        Traced(endpoint)
