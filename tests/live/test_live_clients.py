"""The clients run by Locust against an API that misbehaves: they record only known outcomes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import asyncpg
import pytest
import uvicorn
from fastapi import FastAPI, Header, Response
from waiting import within

from chaos.history.history import History
from chaos.history.records import ArenaName, Bound, Op, Run, parse_instant
from chaos.live.clients import LocustProcess
from chaos.mutants import import_path
from chaos.scenario.operations import Workload
from chaos.scenario.workload import CLIENT_TIMEOUT_SECONDS, PlannedOperation, generate
from holdfast.api.app import create_api
from holdfast.devstack.reaper import Reaper
from holdfast.model.claim import Announcement
from holdfast.model.ids import new_id
from holdfast.settings import Settings
from holdfast.store.store import Store

WORKLOAD = Workload.model_validate(
    {"tasks": 24, "seconds": 1.0, "repeats": 0.3, "cancels": 0.5, "reads": 1.0, "mismatches": 0.2}
    | {"differences": {"requests": False, "queues": ["default"], "ends": 0, "hangs": 0}}
)


class FakeApi:
    """Responds by key: accepted, unknown on the first request, refused, or not at all."""

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
        return {"id": f"id-of-{idempotency_key}", "detail": "refused"}

    async def get(self, task_id: str, response: Response) -> dict[str, str]:
        response.status_code = 404 if task_id.endswith("2") else 200
        return {"state": "SUCCEEDED"}

    async def cancel(self, task_id: str, response: Response) -> dict[str, str]:
        response.status_code = (200, 202, 409)[int(task_id[-1]) % 3]
        return {}

    async def list(self) -> dict[str, list[dict[str, str]]]:
        return {"tasks": [{"id": "id-1"}, {"id": "id-2"}]}


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """Serve the app with uvicorn inside the block; yield its port."""
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


@pytest.fixture
async def api() -> AsyncIterator[tuple[FakeApi, int]]:
    fake = FakeApi()
    async with served(fake.app) as port:
        yield fake, port


class Unreliable:
    """The real API, whose responses to some batches are spoiled.

    ``spoils``: what happens to the response, by a key in the batch. The API itself receives the
    request unless it is refused.
    """

    def __init__(self, app: Any, spoils: dict[str, Literal["lost", "late", "refused"]]) -> None:
        self.app = app
        self.spoils = spoils
        self.requests: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.requests.append(f"{scope['method']} {scope['path']}")
        if scope["path"] != "/tasks/batch":
            await self.app(scope, receive, send)
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        spoil = next((how for key, how in self.spoils.items() if key in body.decode()), None)

        async def again() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def swallow(_: dict[str, Any]) -> None:
            return

        if spoil != "refused":
            await self.app(scope, again, swallow if spoil else send)
        if spoil == "late":
            await asyncio.sleep(CLIENT_TIMEOUT_SECONDS + 1)
        if spoil:
            status = 413 if spoil == "refused" else 503
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b'{"detail": "refused"}'})


async def run_clients(
    operations: list[PlannedOperation], port: int, directory: Path, reaper: Reaper
) -> History:
    log = directory / "clients.log"
    clients = LocustProcess(directory, log, reaper)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": import_path(Path(__file__).parents[2])}
    clients.start(operations, [port], environment)
    try:
        await within(clients.ready(), log.read_text)
        clients.begin(time.time())
        await within(clients.done(), log.read_text)
    finally:
        await clients.stop()
    found = clients.operations()
    assert clients.answered() == len(found) // 2
    run = Run(
        scenario={},
        seed=1,
        arena=ArenaName.LIVE,
        database_epoch="2026-01-01T00:00:00Z",
        bound=Bound(seconds=1, terms=()),
        settings={},
    )
    return History([run, *found])


async def test_each_operation_is_recorded_with_its_known_outcome(
    api: tuple[FakeApi, int], tmp_path: Path, reaper: Reaper
) -> None:
    fake, port = api
    operations = generate(WORKLOAD, 1)
    history = await run_clients(operations, port, tmp_path, reaper)
    submits = history.of("submit")
    by_key: dict[str, list[str]] = {}
    for submit in submits:
        by_key.setdefault(submit.value["key"], []).append(submit.type)
        assert submit.completion is not None
        assert submit.completion.at >= submit.invoke.at
    assert set(by_key) == {f"s1-{number:05d}" for number in range(24)}
    # A timeout is info; the same key is sent again later, as a separate operation.
    assert by_key["s1-00000"][0] == "info"
    assert "ok" in by_key["s1-00000"]
    # A 5xx is info too; a refusal is a fail and final.
    assert "info" in by_key["s1-00006"]
    assert by_key["s1-00006"][-1] == "ok"
    assert set(by_key["s1-00007"]) == {"fail"}
    assert by_key["s1-00003"][0] == "ok"
    assert sum(len(types) for types in by_key.values()) == sum(fake.sends.values())


async def test_answers_to_cancel_get_and_list_are_recorded(
    api: tuple[FakeApi, int], tmp_path: Path, reaper: Reaper
) -> None:
    _, port = api
    operations = [
        *(
            PlannedOperation(0.1, 0, "submit", f"s-{n:02d}", "ledger", None, REQUEST)
            for n in (3, 8, 9, 12)
        ),
        *(PlannedOperation(0.2, 0, "cancel", f"s-{n:02d}") for n in (3, 8, 9, 12)),
        *(PlannedOperation(0.3, 0, "get", f"s-{n:02d}") for n in (3, 12)),
        PlannedOperation(0.4, 0, "list"),
    ]
    history = await run_clients(operations, port, tmp_path, reaper)
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
    assert listing.value["tasks"] == [{"id": "id-1"}, {"id": "id-2"}]
    assert all(isinstance(record, Op | Run) for record in history.records)


async def test_refused_connection_is_info_never_fail(tmp_path: Path, reaper: Reaper) -> None:
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))  # bound, but not listening
        operations = [PlannedOperation(0.0, 3, "list"), PlannedOperation(0.1, 3, "list")]
        history = await run_clients(operations, unserved.getsockname()[1], tmp_path, reaper)
    assert [op.type for op in history.of("list")] == ["info", "info"]
    assert all(op.value["status"] == 0 and op.value["error"] for op in history.of("list"))


REQUEST: dict[str, Any] = {"name": "chaos_ledger", "payload": {"number": 1}}


def item(key: str, client: int = 0, due: float | None = None, **request: Any) -> PlannedOperation:
    return PlannedOperation(0.1, client, "submit", key, "ledger", due, REQUEST | request)


def batch(*items: PlannedOperation) -> PlannedOperation:
    return PlannedOperation(items[0].at, items[0].client, "batch", items[0].key, items=items)


@pytest.fixture
async def announced(settings: Settings) -> Settings:
    """Return settings of a database in which a worker has announced its handler."""
    store = Store(settings, connections=1, application_name="test")
    names = (Announcement("chaos_ledger", None, None),)
    await store.register(new_id(), "worker-1", ["default"], names)
    await store.close()
    return settings.model_copy(update={"log_level": "ERROR"})


async def stored(settings: Settings) -> dict[str, str]:
    """Return the ids of all tasks in the database, by key."""
    connection = await asyncpg.connect(settings.database_url)
    rows = await connection.fetch("SELECT id::text AS id, idempotency_key FROM requests")
    await connection.close()
    assert len({row["idempotency_key"] for row in rows}) == len(rows)
    return {row["idempotency_key"]: row["id"] for row in rows}


async def test_each_submit_of_a_batch_is_an_operation_with_its_own_outcome(
    announced: Settings, tmp_path: Path, reaper: Reaper
) -> None:
    spoiled_api = Unreliable(create_api(announced), {})
    operations = [
        batch(
            item("good"),
            item("later", due=60.0),
            item("unknown-name", name="nobody"),
            item("good"),
            item("good", payload={"number": 2}),
        ),
        batch(item("other-client", client=5)),
        PlannedOperation(1.0, 0, "get", "good"),
        PlannedOperation(1.1, 0, "cancel", "later"),
        # Never accepted, so there is no task to cancel.
        PlannedOperation(1.2, 0, "cancel", "unknown-name"),
    ]
    async with served(spoiled_api) as port:
        history = await run_clients(operations, port, tmp_path, reaper)
    sent = Counter(spoiled_api.requests)
    assert (sent["POST /tasks/batch"], sent["POST /tasks/"], len(sent)) == (2, 0, 3)
    submits = [op for op in history.of("submit") if op.invoke.process == "client-1"]
    answers = [(op.value["key"], op.type, op.value["status"]) for op in submits]
    assert answers == [
        ("good", "ok", 201),
        ("later", "ok", 201),
        ("unknown-name", "fail", 422),
        ("good", "ok", 200),
        ("good", "fail", 422),
    ]
    ids = await stored(announced)
    accepted = {op.value["key"]: op for op in history.of("submit") if op.type == "ok"}
    assert {key: op.value["task_id"] for key, op in accepted.items()} == ids
    assert accepted["other-client"].invoke.process == "client-6"
    # One request, so all were invoked before any completed.
    mine = [r for r in history.records if isinstance(r, Op) and r.process == "client-1"]
    assert [record.type for record in mine][:6] == ["invoke"] * 5 + ["ok"]
    assert "nobody" in submits[2].value["error"]
    (due,) = [op.value["run_at"] for op in submits if op.value["run_at"]]
    assert 55 < parse_instant(due).timestamp() - time.time() < 61
    (read,) = history.of("get")
    assert (read.value["task_id"], read.value["state"]) == (ids["good"], "SCHEDULED")
    (cancelled,) = history.of("cancel")
    assert (cancelled.value["task_id"], cancelled.value["answer"]) == (ids["later"], "cancelled")


async def test_submits_of_an_unanswered_batch_are_resent_singly(
    announced: Settings, tmp_path: Path, reaper: Reaper
) -> None:
    spoiled_api = Unreliable(
        create_api(announced), {"lost-1": "lost", "late-1": "late", "refused-1": "refused"}
    )
    clients = {"lost": 0, "late": 1, "refused": 2}
    operations = [
        batch(*(item(f"{how}-{n}", client) for n in range(3))) for how, client in clients.items()
    ]
    async with served(spoiled_api) as port:
        history = await run_clients(operations, port, tmp_path, reaper)
    outcomes: dict[str, list[tuple[str, int]]] = {}
    for op in history.of("submit"):
        outcomes.setdefault(op.value["key"], []).append((op.type, op.value["status"]))
    for n in range(3):
        # A committed submit is found under its key; an unknown one is never recorded as fail.
        assert outcomes[f"lost-{n}"] == [("info", 503), ("ok", 200)]
        assert outcomes[f"late-{n}"] == [("info", 0), ("ok", 200)]
        assert outcomes[f"refused-{n}"] == [("fail", 413)]
    sent = Counter(spoiled_api.requests)
    assert (sent["POST /tasks/batch"], sent["POST /tasks/"]) == (3, 6)
    ids = await stored(announced)
    assert set(ids) == {f"{how}-{n}" for how in ("lost", "late") for n in range(3)}
    oks = {op.value["key"]: op.value["task_id"] for op in history.of("submit") if op.type == "ok"}
    assert oks == ids
    timed_out = [op for op in history.of("submit") if op.value["status"] == 0]
    assert all("Timeout" in op.value["error"] for op in timed_out)
