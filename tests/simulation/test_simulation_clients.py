"""The clients and the sink in virtual time, over the simulated network."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI, Header, Response

from chaos.history.records import Op
from chaos.observers.sink import Sink, create_sink, read_calls
from chaos.scenario.operations import Workload
from chaos.scenario.workload import CLIENT_TIMEOUT_SECONDS, CLIENTS, PlannedOperation, generate
from chaos.simulation.environment.clients import SimulatedClients
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node
from chaos.simulation.network.network import Network, Toxic
from holdfast.runtime.health import start_server

T = TypeVar("T")
WORKLOAD = Workload.model_validate(
    {"tasks": 40, "seconds": 20.0, "repeats": 0.3, "cancels": 0.3, "reads": 1.0, "mismatches": 0.2}
    # FakeApi reads the number of a task in its key.
    | {"differences": {"requests": False, "queues": ["default"], "ends": 0, "hangs": 0}}
)
ZERO = 1767225600.0  # Unix time of virtual second 0
PORT = 8000


class FakeApi:
    """Answers by the number in the key: some time out first, some get 503 first, some fail."""

    def __init__(self) -> None:
        self.sends: Counter[str] = Counter()
        self.app = FastAPI()
        self.app.post("/tasks/")(self.submit)
        self.app.get("/tasks/{task_id}")(self.get)
        self.app.post("/tasks/{task_id}/cancel")(self.cancel)
        self.app.get("/tasks/")(self.list)

    async def submit(self, response: Response, idempotency_key: str = Header()) -> dict[str, str]:
        self.sends[idempotency_key] += 1
        number, first = int(idempotency_key[-2:]), self.sends[idempotency_key] == 1
        if number % 10 == 0 and first:
            await asyncio.sleep(30)
        response.status_code = 503 if number % 10 == 1 and first else 422 if number == 7 else 201
        return {"id": f"id-of-{idempotency_key}"}

    async def get(self, task_id: str) -> dict[str, str]:
        return {"state": "SUCCEEDED"}

    async def cancel(self, task_id: str) -> dict[str, str]:
        return {}

    async def list(self) -> dict[str, list[dict[str, str]]]:
        return {"tasks": [{"id": "id-1"}]}


class World:
    """A loop, a network and any number of APIs."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimulationLoop(seed)
        self.network = Network(self.loop)
        self.ops: list[Op] = []

    def run(self, harness: Callable[[], Awaitable[T]]) -> T:
        async def main() -> T:
            return await harness()

        gc.disable()  # as in every simulated run
        try:
            return self.loop.run(main, max_seconds=1000)
        finally:
            gc.enable()

    def serve(self, name: str, app: FastAPI) -> Node:
        async def main() -> None:
            _, serving = await start_server(app, "0.0.0.0", PORT)
            await serving

        return self.loop.start(name, main)

    def clients(self, operations: list[PlannedOperation], *apis: str) -> SimulatedClients:
        urls = [f"http://{self.network.host(name)}:{PORT}" for name in apis]
        return SimulatedClients(operations, urls, self.ops.append, lambda: ZERO + 1)

    async def drive(self, clients: SimulatedClients) -> None:
        async def main() -> None:
            await asyncio.sleep(1)
            await clients.run()

        node = self.loop.start("client", main)
        assert await node.wait() == 0, node.output

    def submits(self, key: str) -> list[str]:
        ids = [op.op_id for op in self.ops if op.type == "invoke" and op.value.get("key") == key]
        kinds = {op.op_id: op.type for op in self.ops if op.type != "invoke"}
        return [kinds[op_id] for op_id in ids]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.loop.dispose()
    world.network.close()


def test_clients_run_all_operations_in_virtual_time(world: World) -> None:
    fakes = FakeApi(), FakeApi()
    operations = generate(WORKLOAD, 1)
    clients = world.clients(operations, "api-1", "api-2")

    async def harness() -> None:
        for number, fake in enumerate(fakes, start=1):
            world.serve(f"api-{number}", fake.app)
        await world.drive(clients)

    world.run(harness)
    assert 20 < world.loop.time() < 60
    assert clients.answered == len(world.ops) / 2 > len(operations) * 0.8
    for number in range(40):
        results = world.submits(f"s1-{number:05d}")
        if number == 7:
            assert set(results) == {"fail"}
        elif number % 10 in {0, 1}:
            assert "info" in results
            assert results[-1] == "ok"
        else:
            assert set(results) == {"ok"}
    assert sum("Timeout" in op.value.get("error", "") for op in world.ops) == 4
    # Each client has its API and keeps its connection until the server closes it.
    assert all(fake.sends for fake in fakes)
    opened = sum(edge.opened for edge in world.network.edges)
    assert CLIENTS <= opened < clients.answered / 2
    assert {op.process for op in world.ops} == {f"client-{n + 1}" for n in range(CLIENTS)}


def test_operations_start_on_time_and_time_out(world: World) -> None:
    request: dict[str, Any] = {"name": "chaos_ledger", "payload": {}}
    operations = [PlannedOperation(0.5, 3, "submit", "k-00", "ledger", 10.0, request)]

    async def harness() -> None:
        world.serve("api-1", FakeApi().app)
        await world.drive(world.clients(operations, "api-1"))

    world.run(harness)
    ats = [op.at for op in world.ops]
    first, given_up, again, answered = ats
    assert first == pytest.approx(0.5, abs=0.001)
    assert given_up - first == pytest.approx(CLIENT_TIMEOUT_SECONDS, abs=0.01)
    assert again - given_up == pytest.approx(0.7, abs=0.001)
    assert answered - again < 0.01
    assert world.ops[0].value["run_at"] == "2026-01-01T00:00:11Z"
    assert [op.type for op in world.ops] == ["invoke", "info", "invoke", "ok"]


def test_unavailable_api_gives_info_and_a_resend_succeeds(world: World) -> None:
    request: dict[str, Any] = {"name": "chaos_ledger", "payload": {}}
    ats = (0.0, 5.0, 6.0, 10.0)
    operations = [
        PlannedOperation(at, 0, "submit", f"k-{n:02d}", "ledger", None, request)
        for n, at in enumerate(ats, start=2)
    ]
    fake = FakeApi()

    async def harness() -> None:
        first = world.serve("api-1", fake.app)
        edge = world.network.edge("client->api-1")
        driving = asyncio.ensure_future(world.drive(world.clients(operations, "api-1")))
        await asyncio.sleep(5.5)
        world.loop.kill(first)
        await asyncio.sleep(4.0)
        world.serve("api-1", fake.app)
        await asyncio.sleep(1.0)
        edge.add(Toxic("timeout", "downstream", {"timeout": 0}))
        await asyncio.sleep(5.0)
        edge.heal()
        await driving

    world.run(harness)
    results = [world.submits(f"k-{n:02d}") for n in (2, 3, 4, 5)]
    assert results[0] == ["ok"]
    for outcomes in results[1:]:
        assert set(outcomes[:-1]) == {"info"}
        assert outcomes[-1] == "ok"
    errors = {op.value["error"].partition("(")[0] for op in world.ops if op.value.get("error")}
    assert {"ConnectError", "ReadTimeout"} <= errors


def test_clients_are_deterministic() -> None:
    runs = []
    for seed in (1, 2, 1):
        world = World(seed)
        apis = [FakeApi(), FakeApi()]

        async def harness(world: World = world, apis: list[FakeApi] = apis) -> None:
            for number, fake in enumerate(apis, start=1):
                world.serve(f"api-{number}", fake.app)
            await world.drive(world.clients(generate(WORKLOAD, 1), "api-1", "api-2"))

        world.run(harness)
        runs.append((world.loop.trace.digest, world.ops))
        world.loop.dispose()
        world.network.close()
    assert runs[0] == runs[2]
    assert runs[0][0] != runs[1][0]


def test_sink_runs_unmodified(world: World, tmp_path: Path) -> None:
    sink = Sink(tmp_path / "sink.jsonl")

    async def client() -> None:
        async with httpx.AsyncClient(
            base_url=f"http://{world.network.host('sink')}:{PORT}", trust_env=False
        ) as http:
            await asyncio.sleep(100)
            for epoch in (1, 3):
                headers = {"Idempotency-Key": "k", "Holdfast-Epoch": str(epoch)}
                answer = await http.post("/effects", headers=headers, json={"task_id": "t"})
                assert answer.status_code == (201 if epoch == 1 else 200)

    async def harness() -> None:
        world.serve("sink", create_sink(sink))
        node = world.loop.start("worker-1", client)
        assert await node.wait() == 0, node.output

    world.run(harness)
    sink.close()
    calls = read_calls(tmp_path / "sink.jsonl")
    assert [(call.key, call.epoch, call.applied) for call in calls] == [
        ("k", 1, True),
        ("k", 3, False),
    ]
    assert calls[0].at == pytest.approx(ZERO + 100, abs=0.1)
