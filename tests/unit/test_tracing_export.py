"""The export of spans: bounded, in the background, whatever the collector does."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator

import pytest
from opentelemetry.trace import SpanKind
from otlp_receiver import receiving
from waiting import until

from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.export import BATCH_MAX, QUEUE_MAX
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.trace_context import Finished
from holdfast.telemetry.tracing import Tracing, create_tracing

NOWHERE = "http://127.0.0.1:1"


class Traced:
    """Tracing into a receiver, with what it counts and logs."""

    def __init__(self, endpoint: str, export_seconds: float = 0.05) -> None:
        self.metrics = Metrics("test")
        self.log = io.StringIO()
        log = create_logger(style="json", stream=self.log)
        self.tracing: Tracing = create_tracing(
            endpoint,
            1.0,
            self.metrics,
            log,
            role="test",
            label="test-1",
            version="1.2.3",
            export_seconds=export_seconds,
        )

    def end(self, count: int = 1, name: str = "step") -> None:
        """So many spans end."""
        for _ in range(count):
            context = self.tracing.root()
            self.tracing.record(Finished(name, context, None, 10, 20, SpanKind.CLIENT, {"n": 1}))

    def count(self, result: str) -> float:
        labels = {"result": result}
        return self.metrics.registry.get_sample_value("holdfast_spans_total", labels) or 0.0

    def logged(self) -> list[str]:
        return [json.loads(line)["event_name"] for line in self.log.getvalue().splitlines()]


@contextlib.asynccontextmanager
async def traced(endpoint: str, export_seconds: float = 0.05) -> AsyncIterator[Traced]:
    made = Traced(endpoint, export_seconds)
    made.tracing.start()
    try:
        yield made
    finally:
        await made.tracing.aclose()


async def test_spans_arrive_as_they_were_told() -> None:
    async with receiving() as collector, traced(collector.url) as told:
        parent = told.tracing.root()
        context = told.tracing.child(parent)
        link = told.tracing.root()
        told.tracing.record(
            Finished("GET", context, parent, 10, 20, SpanKind.CLIENT, {"a": 1}, (link,), error="no")
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


async def test_many_go_in_bounded_batches_and_before_their_time() -> None:
    async with receiving() as collector, traced(collector.url, export_seconds=3600) as told:
        told.end(2 * BATCH_MAX)
        await until(lambda: len(collector.spans) == 2 * BATCH_MAX)
        assert collector.posts == 2
    assert told.count("exported") == 2 * BATCH_MAX


async def test_what_is_left_is_sent_at_the_end() -> None:
    async with receiving() as collector:
        async with traced(collector.url, export_seconds=3600) as told:
            told.end(BATCH_MAX + 3)
        assert len(collector.spans) == BATCH_MAX + 3


async def test_an_end_before_the_first_turn_sends_too() -> None:
    async with receiving() as collector:
        told = Traced(collector.url)
        told.end()
        told.tracing.start()
        await told.tracing.aclose()
        assert len(collector.spans) == 1


async def test_the_queue_is_bounded_and_the_newest_are_dropped() -> None:
    async with receiving("paused") as collector:
        async with traced(collector.url, export_seconds=3600) as told:
            told.end(QUEUE_MAX, "old")
            told.end(10, "new")
            assert told.count("dropped") == 10
            collector.answer = "ok"
        assert len(collector.named("old")) == QUEUE_MAX
        assert collector.named("new") == []


@pytest.mark.parametrize(
    "answer", ["500", "garbage", "broken off", "empty", "no gzip", "paused", "dripping", "endless"]
)
async def test_a_bad_answer_costs_spans_and_nothing_else(answer: str) -> None:
    async with receiving(answer) as collector, traced(collector.url) as told:
        told.end()
        await until(lambda: told.count("lost") + told.count("exported") == 1)
        assert collector.posts <= 2, "tried twice at most"
        collector.answer = "ok"
        told.end(1, "later")
        await collector.until("later")
    troubled = EventName.COLLECTOR_FAILED in told.logged()
    assert troubled == (told.count("lost") == 1)
    assert troubled == (EventName.COLLECTOR_RECOVERED in told.logged())


async def test_a_refusal_is_not_sent_again() -> None:
    async with receiving("400") as collector, traced(collector.url) as told:
        told.end()
        await until(lambda: told.count("refused") == 1)
        assert collector.posts == 1


async def test_a_batch_that_failed_once_is_sent_again_whole() -> None:
    async with receiving("500") as collector, traced(collector.url) as told:
        told.end(3)
        await until(lambda: collector.posts == 1)
        collector.answer = "ok"
        await until(lambda: len(collector.spans) == 3)
    assert told.count("exported") == 3


async def test_no_collector_at_all() -> None:
    async with traced(NOWHERE) as told:
        told.end(5)
        await until(lambda: told.count("lost") == 5)
        assert told.logged().count(EventName.COLLECTOR_FAILED) == 1


async def test_the_end_is_bounded_when_the_collector_is_paused() -> None:
    async with receiving("paused") as collector:
        async with traced(collector.url) as told:
            told.end(QUEUE_MAX)
            await until(lambda: collector.posts == 1)
        assert collector.posts <= 2, "it did not wait for every batch in turn"
        results = ("lost", "dropped", "exported")
        assert sum(map(told.count, results)) == QUEUE_MAX, "every span is accounted for"


async def test_what_ends_afterwards_is_dropped() -> None:
    async with receiving() as collector:
        async with traced(collector.url) as told:
            pass
        told.end()
    assert told.count("dropped") == 1


async def test_spans_end_in_threads_too() -> None:
    async with receiving() as collector, traced(collector.url, export_seconds=3600) as told:
        await asyncio.to_thread(told.end, BATCH_MAX)
        await until(lambda: len(collector.spans) == BATCH_MAX)


async def test_what_cannot_be_encoded_harms_no_later_span(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as collector, traced(collector.url) as told:
        context = told.tracing.root()
        told.tracing.record(Finished("bad", context, None, -1, 20))
        await until(lambda: told.count("lost") == 1)
        told.end(1, "good")
        await collector.until("good")
    assert EventName.SPANS_UNENCODABLE in told.logged()


@pytest.mark.parametrize("endpoint", ["", "localhost:4318", "ftp://collector", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="no URL"):
        Traced(endpoint)
