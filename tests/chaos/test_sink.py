from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from chaos.observers.sink import Sink, create_sink, read_calls


def client(sink: Sink) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_sink(sink))
    return httpx.AsyncClient(transport=transport, base_url="http://sink")


async def post(http: httpx.AsyncClient, key: str, epoch: int) -> httpx.Response:
    headers = {"Idempotency-Key": key, "Holdfast-Epoch": str(epoch)}
    seen = {"attempt": epoch}
    return await http.post("/effects", headers=headers, json={"task_id": key, "seen": seen})


async def test_every_call_is_recorded_and_only_the_first_per_key_is_applied(
    tmp_path: Path,
) -> None:
    sink = Sink(tmp_path / "sink.jsonl")
    async with client(sink) as http:
        answers = [await post(http, "a", 1), await post(http, "b", 1), await post(http, "a", 3)]
    sink.close()
    assert [answer.status_code for answer in answers] == [201, 201, 200]
    calls = read_calls(tmp_path / "sink.jsonl")
    assert [(call.key, call.epoch, call.applied) for call in calls] == [
        ("a", 1, True),
        ("b", 1, True),
        ("a", 3, False),
    ]
    assert [call.task_id for call in calls] == ["a", "b", "a"]
    assert [call.seen for call in calls] == [{"attempt": 1}, {"attempt": 1}, {"attempt": 3}]
    assert calls[0].at <= calls[1].at <= calls[2].at


async def test_concurrent_calls_with_one_key_are_applied_once(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "sink.jsonl")
    async with client(sink) as http:
        await asyncio.gather(*(post(http, "same", epoch) for epoch in range(1, 40, 2)))
    sink.close()
    calls = read_calls(tmp_path / "sink.jsonl")
    assert len(calls) == 20
    assert sum(call.applied for call in calls) == 1


async def test_applied_keys_survive_a_restart(tmp_path: Path) -> None:
    for epoch in (1, 3):
        sink = Sink(tmp_path / "sink.jsonl")
        async with client(sink) as http:
            await post(http, "a", epoch)
        sink.close()
    assert [call.applied for call in read_calls(tmp_path / "sink.jsonl")] == [True, False]


async def test_sink_without_dedupe_applies_every_call(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "sink.jsonl", dedupe=False)
    async with client(sink) as http:
        await post(http, "a", 1)
        await post(http, "a", 3)
    sink.close()
    assert [call.applied for call in read_calls(tmp_path / "sink.jsonl")] == [True, True]


async def test_call_without_a_key_is_refused_and_not_recorded(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "sink.jsonl")
    async with client(sink) as http:
        answer = await http.post("/effects", content=b"not json")
    sink.close()
    assert answer.status_code == 400
    assert read_calls(tmp_path / "sink.jsonl") == []
