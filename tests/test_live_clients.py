"""The clients record what they know and nothing more: by Locust, against an API that misbehaves."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Header, Response

from chaos.history import History
from chaos.live.clients import Clients
from chaos.records import Bound, Op, Run
from chaos.load import Workload
from chaos.workload import Planned, plan
from system.guardian import Guardian

WORKLOAD = Workload.model_validate(
    {"tasks": 24, "seconds": 1.0, "repeats": 0.3, "cancels": 0.5, "reads": 1.0, "mismatches": 0.2}
)


class FakeApi:
    """Answers by the key: some stored, some unknown at first, some refused, some never answered."""

    def __init__(self) -> None:
        self.sends: Counter[str] = Counter()
        self.app = FastAPI()
        self.app.post("/tasks/")(self.submit)
        self.app.get("/tasks/{task_id}")(self.get)
        self.app.post("/tasks/{task_id}/cancel")(self.cancel)
        self.app.get("/tasks/")(self.list)

    async def submit(self, response: Response, idempotency_key: str = Header()) -> dict[str, str]:
        self.sends[idempotency_key] += 1
        number = int(idempotency_key[-2:])
        if number == 0 and self.sends[idempotency_key] == 1:
            await asyncio.sleep(30)
        first = self.sends[idempotency_key] == 1
        response.status_code = 503 if number % 5 == 1 and first else 422 if number == 7 else 201
        return {"id": f"id-of-{idempotency_key}", "detail": "as told"}

    async def get(self, task_id: str, response: Response) -> dict[str, str]:
        response.status_code = 404 if task_id.endswith("2") else 200
        return {"state": "SUCCEEDED"}

    async def cancel(self, task_id: str, response: Response) -> dict[str, str]:
        response.status_code = (200, 202, 409)[int(task_id[-1]) % 3]
        return {}

    async def list(self) -> dict[str, list[dict[str, str]]]:
        return {"tasks": [{"id": "id-1"}, {"id": "id-2"}]}


@pytest.fixture
async def api() -> AsyncIterator[tuple[FakeApi, int]]:
    fake = FakeApi()
    config = uvicorn.Config(fake.app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        yield fake, listener.getsockname()[1]
        server.should_exit = True
        await serving


async def driven(
    operations: list[Planned], port: int, directory: Path, guardian: Guardian
) -> History:
    clients = Clients(directory, directory / "clients.log", guardian)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent.parent)}
    clients.start(operations, [port], environment)
    try:
        await asyncio.wait_for(clients.ready(), 20)
        clients.go(time.time())
        await asyncio.wait_for(clients.done(), 40)
    finally:
        await clients.stop()
    found = clients.operations()
    assert clients.answered() == len(found) // 2
    run = Run(
        scenario={},
        seed=1,
        arena="live",
        database_epoch="2026-01-01T00:00:00Z",
        bound=Bound(seconds=1, terms=()),
        settings={},
    )
    return History([run, *found])


async def test_every_operation_is_recorded_as_what_is_known_of_it(
    api: tuple[FakeApi, int], tmp_path: Path, guardian: Guardian
) -> None:
    fake, port = api
    operations = plan(WORKLOAD, 1)
    history = await driven(operations, port, tmp_path, guardian)
    submits = history.of("submit")
    by_key: dict[str, list[str]] = {}
    for submit in submits:
        by_key.setdefault(submit.value["key"], []).append(submit.type)
        assert submit.completion is not None
        assert submit.completion.at >= submit.invoke.at
    assert set(by_key) == {f"s1-{number:05d}" for number in range(24)}
    # A timeout is info, and the same key is sent again later, as an operation of its own.
    assert by_key["s1-00000"][0] == "info"
    assert "ok" in by_key["s1-00000"]
    # So is a 5xx; a refusal is a fail, and final.
    assert "info" in by_key["s1-00006"]
    assert by_key["s1-00006"][-1] == "ok"
    assert set(by_key["s1-00007"]) == {"fail"}
    assert by_key["s1-00003"][0] == "ok"
    assert sum(len(types) for types in by_key.values()) == sum(fake.sends.values())


async def test_answers_of_the_other_operations_are_told_apart(
    api: tuple[FakeApi, int], tmp_path: Path, guardian: Guardian
) -> None:
    _, port = api
    operations = [
        *(Planned(0.1, 0, "submit", f"s-{n:02d}", "ledger", None, REQUEST) for n in (3, 8, 9, 12)),
        *(Planned(0.2, 0, "cancel", f"s-{n:02d}") for n in (3, 8, 9, 12)),
        *(Planned(0.3, 0, "get", f"s-{n:02d}") for n in (3, 12)),
        Planned(0.4, 0, "list"),
    ]
    history = await driven(operations, port, tmp_path, guardian)
    answers = {op.value["task_id"]: op.value["answer"] for op in history.of("cancel")}
    assert answers == {
        "id-of-s-03": "cancelled",
        "id-of-s-08": "too_late",
        "id-of-s-09": "cancelled",
        "id-of-s-12": "too_late",
    }
    states = {op.value["task_id"]: op.value["state"] for op in history.of("get")}
    assert states == {"id-of-s-03": "SUCCEEDED", "id-of-s-12": None}
    (listing,) = history.of("list")
    assert listing.value["task_ids"] == ["id-1", "id-2"]
    assert all(isinstance(record, Op | Run) for record in history.records)


async def test_nobody_there_is_info_never_fail(tmp_path: Path, guardian: Guardian) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and not listening
        operations = [Planned(0.0, 3, "list"), Planned(0.1, 3, "list")]
        history = await driven(operations, nobody.getsockname()[1], tmp_path, guardian)
    assert [op.type for op in history.of("list")] == ["info", "info"]
    assert all(op.value["status"] == 0 and op.value["error"] for op in history.of("list"))


REQUEST = {"name": "chaos_ledger", "payload": {"number": 1}}
