"""Spans of requests and their effects on tasks; the traceparent stored with each task."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
from otlp_receiver import Receiver, receiving
from waiting import until

from holdfast.model.claim import Failure
from holdfast.model.lifecycle import Reason
from holdfast.model.task import TaskFilter
from holdfast.settings import Settings
from holdfast.store.store import Store
from holdfast.telemetry import traceparent

from .conftest import OpenApi

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
ECHO: dict[str, Any] = {"name": "echo", "payload": {"key": "s3cr3t"}}
CREATE = "create default"


@pytest.fixture
def traced(settings: Settings, collector: Receiver) -> Settings:
    return settings.model_copy(
        update={
            "otlp_endpoint": collector.url,
            "trace_ratio": 1.0,
            "trace_export_seconds": 0.05,
            "label": "api-1",
        }
    )


def caller_of(text: str) -> dict[str, str]:
    return {"traceparent": text}


def place(task: dict[str, Any]) -> tuple[str, str]:
    """Trace and span id of the traceparent stored with a task."""
    context = traceparent.parse(task["traceparent"])
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


async def test_request_and_its_task_share_a_trace(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    async with open_api(traced) as api:
        task = (await api.post("/tasks/", json=ECHO)).json()
        assert (await api.get("/tasks/?name=s3cr3t")).status_code == 200
        assert (await api.post("/tasks/?secret=s3cr3t", json=ECHO)).status_code == 422
    (server, _), create = collector.named("POST /tasks/"), collector.one(CREATE)
    assert (server.kind, server.parent_id, server.error) == ("SERVER", "", False)
    assert (server.service, server.instance) == ("holdfast-api", "api-1")
    assert server.attributes["http.request.method"] == "POST"
    assert server.attributes["http.route"] == server.attributes["url.path"] == "/tasks/"
    assert server.attributes["http.response.status_code"] == 201
    assert server.attributes["server.address"] == "api"
    assert (create.kind, create.parent_id) == ("PRODUCER", server.span_id)
    assert create.key == place(task), "the task's spans are to hang below it"
    assert create.attributes["messaging.message.id"] == task["id"]
    assert create.attributes["messaging.operation.type"] == "create"
    assert server.start <= create.start <= create.end <= server.end
    assert "s3cr3t" not in str(collector.spans)


async def test_callers_trace_is_continued(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    traced = traced.model_copy(update={"trace_ratio": 0.0})
    async with open_api(traced) as api:
        task = (await api.post("/tasks/", json=ECHO, headers=caller_of(SAMPLED))).json()
        batch = {"tasks": [ECHO, ECHO]}
        many = (await api.post("/tasks/batch", json=batch, headers=caller_of(SAMPLED))).json()
    server, create = collector.one("POST /tasks/"), collector.named(CREATE)[0]
    assert (server.trace_id, server.parent_id) == (TRACE, CALLER)
    assert (create.trace_id, create.parent_id) == (TRACE, server.span_id)
    assert place(task) == create.key
    of_batch = collector.one("POST /tasks/batch")
    assert [span.parent_id for span in collector.named(CREATE)[1:]] == [of_batch.span_id] * 2
    assert {place(result["task"])[0] for result in many["results"]} == {TRACE}
    assert collector.orphans(SAMPLED) == []


async def test_callers_decision_not_to_sample_is_followed(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    async with open_api(traced) as api:
        task = (await api.post("/tasks/", json=ECHO, headers=caller_of(UNSAMPLED))).json()
        await api.get("/tasks/", headers=caller_of(UNSAMPLED))
    assert task["traceparent"] == UNSAMPLED
    assert collector.spans == []


async def test_each_task_of_a_batch_starts_a_trace_linked_to_the_request(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    async with open_api(traced) as api:
        answer = await api.post("/tasks/batch", json={"tasks": [ECHO] * 3 + [{"name": "?"}]})
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 201, 201, 422]
    created = collector.named(CREATE)
    server = collector.one("POST /tasks/batch")
    assert {span.key for span in created} == {place(r["task"]) for r in results[:3]}
    assert len({span.trace_id for span in created} | {server.trace_id}) == 4
    assert all((span.parent_id, span.links) == ("", [server.key]) for span in created)


async def test_request_is_recorded_if_one_of_its_tasks_is_sampled(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    """Each task is sampled by the ratio; every link leads to a recorded span."""
    async with open_api(traced.model_copy(update={"trace_ratio": 0.5})) as api:
        answers = [await api.post("/tasks/batch", json={"tasks": [ECHO] * 20}) for _ in range(20)]
    tasks = [result["task"] for answer in answers for result in answer.json()["results"]]
    flags = Counter(task["traceparent"][-2:] for task in tasks)
    assert set(flags) == {"00", "01"}
    assert 100 < flags["01"] < 300
    assert len(collector.named(CREATE)) == flags["01"]
    assert collector.loose_links() == []


async def test_tasks_are_sampled_without_a_collector(
    store: Store, open_api: OpenApi, settings: Settings
) -> None:
    """Workers may have a collector: the sampling decision is stored in the row."""
    for ratio, flags in ((0.0, "00"), (1.0, "01")):
        async with open_api(settings.model_copy(update={"trace_ratio": ratio})) as api:
            task = (await api.post("/tasks/", json=ECHO)).json()
            assert task["traceparent"].endswith(f"-{flags}")
            task = (await api.post("/tasks/", json=ECHO, headers=caller_of(SAMPLED))).json()
            assert task["traceparent"] == SAMPLED, "no span of ours stands in between"


async def test_replayed_submit_has_no_create_span(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    headers = {"Idempotency-Key": "k"}
    async with open_api(traced) as api:
        first = (await api.post("/tasks/", json=ECHO, headers=headers)).json()
        again = (await api.post("/tasks/", json=ECHO, headers=headers)).json()
        other = await api.post("/tasks/", json={"name": "echo"}, headers=headers)
    assert again["traceparent"] == first["traceparent"]
    assert other.status_code == 422
    assert [span.key for span in collector.named(CREATE)] == [place(first)]
    assert len(collector.named("POST /tasks/")) == 3


async def test_server_errors_mark_the_span_and_client_errors_do_not(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    broken = traced.model_copy(
        update={"database_url": "postgresql://x@127.0.0.1:1/x", "accept_unknown_names": True}
    )
    async with open_api(broken) as api:
        assert (await api.get(f"/tasks/{uuid4()}")).status_code == 503
        assert (await api.post("/tasks/", json={"name": "?"})).status_code == 422
        assert (await api.request("BREW", "/tasks/")).status_code == 405
        assert (await api.get("/nothing/here")).status_code == 404
    failed = collector.one("GET /tasks/{task_id}")
    assert (failed.error, failed.attributes["error.type"]) == (True, "503")
    assert not collector.one("POST /tasks/").error
    (brewed,) = [
        span for span in collector.spans if "http.request.method_original" in span.attributes
    ]
    assert brewed.attributes["http.request.method_original"] == "BREW"
    assert brewed.attributes["http.request.method"] == "_OTHER"
    assert "http.route" not in collector.one("GET").attributes
    assert brewed.name == "HTTP /tasks/"


async def test_probes_are_not_traced(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    async with open_api(traced) as api:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await api.get(path)).status_code == 200
    assert collector.spans == []


async def test_submit_of_unknown_outcome_has_its_create_span(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver, hop_to: Any
) -> None:
    hop = await hop_to(traced.database_url)
    hop.swallow_after = b"s3cr3t"  # part of the values, sent after the statement is prepared
    dumb = traced.model_copy(
        update={
            "database_url": hop.url,
            "statement_timeout_seconds": 0.3,
            "submit_timeout_seconds": 0.5,
        }
    )
    async with open_api(dumb) as api:
        answer = await api.post("/tasks/", json=ECHO)
        assert answer.json()["type"].endswith("outcome-unknown")
    create = collector.one(CREATE)
    assert (create.error, create.attributes["error.type"]) == (True, "OutcomeUnknown")
    story = await store.get(UUID(answer.json()["task_id"]))
    assert story is not None
    assert create.key == place({"traceparent": story.task.traceparent})


async def test_cancels_and_their_outcomes(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    async with open_api(traced) as api:
        task = (await api.post("/tasks/", json=ECHO)).json()
        for _ in range(2):
            await api.post(f"/tasks/{task['id']}/cancel")
        running = (await api.post("/tasks/", json=ECHO)).json()
        await claim(store)
        await api.post(f"/tasks/{running['id']}/cancel")
        assert (await api.post(f"/tasks/{uuid4()}/cancel")).status_code == 404
    recorded = [
        (span.attributes["holdfast.reason"], span.attributes["holdfast.answer"])
        for span in collector.named("cancel")
    ]
    assert recorded == [
        ("cancelled", "made"),
        ("cancelled", "done before"),
        ("cancel requested", "made"),
    ]
    first = collector.named("cancel")[0]
    assert (first.trace_id, first.parent_id) == place(task)
    assert first.links == [collector.named("POST /tasks/{task_id}/cancel")[0].key]
    assert collector.loose_links() == []


async def test_retry_belongs_to_the_trace_of_its_task(
    store: Store, open_api: OpenApi, traced: Settings, collector: Receiver
) -> None:
    """Also if the request itself would not have been recorded."""
    async with open_api(traced.model_copy(update={"trace_ratio": 0.0})) as api:
        task = (await api.post("/tasks/", json=ECHO, headers=caller_of(SAMPLED))).json()
        refused = await api.post(f"/tasks/{task['id']}/retry")
        worker = await claim(store)
        await store.release([Failure(UUID(task["id"]), 1, Reason.DISCARDED)], worker)
        retried = await api.post(f"/tasks/{task['id']}/retry")
    assert (refused.status_code, retried.status_code) == (409, 200)
    first, second = collector.named("retry")
    assert (first.trace_id, first.parent_id) == place(task)
    answers = [span.attributes["holdfast.answer"] for span in (first, second)]
    assert answers == ["refused", "made"]
    assert second.attributes["holdfast.state"] == "SCHEDULED"
    assert second.links == [collector.named("POST /tasks/{task_id}/retry")[1].key]
    assert collector.loose_links() == []


async def claim(store: Store) -> UUID:
    """Claim the due task as a worker of this test."""
    worker = uuid4()
    await store.register(worker, "test", ["default"], [])
    hints = (await store.dispatch(10, "test")).tasks
    assert (await store.claim(hints, worker, uuid4())).grants
    return worker


async def test_unresponsive_collector_delays_no_request(
    store: Store, open_api: OpenApi, traced: Settings
) -> None:
    async with receiving("paused") as paused:
        async with open_api(traced.model_copy(update={"otlp_endpoint": paused.url})) as api:
            for _ in range(100):
                assert (await api.post("/tasks/", json=ECHO)).status_code == 201
            await until(lambda: paused.posts > 0)
        assert len((await store.list_tasks(TaskFilter(), 1000))[0]) == 100
