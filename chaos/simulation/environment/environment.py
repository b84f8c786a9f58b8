"""The environment of one simulated run: roles, servers, clients."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.history.records import Record, Sometimes
from chaos.history.rest import QueueHints
from chaos.nemesis.process_faults import ActorFailed, Hold, Observed, ProcessEnd
from chaos.observers import otlp
from chaos.observers.collector import Collector, create_collector, read_exports
from chaos.observers.database import DatabaseObserver
from chaos.observers.hints import hints_left
from chaos.observers.logs import observations
from chaos.observers.sink import Call, Sink, create_sink, read_calls
from chaos.scenario.faults import COLLECTOR, FaultSpec
from chaos.scenario.operations import EFFECTS
from chaos.scenario.scenario import Scenario
from chaos.scenario.workload import generate
from chaos.simulation.environment.clients import SimulatedClients
from chaos.simulation.environment.conditions import SimulatedConditions
from chaos.simulation.environment.observer import CachingObserver
from chaos.simulation.environment.processes import Main, SimulatedProcess, write_logs
from chaos.simulation.environment.servers import SimulatedServerFaults
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node
from chaos.simulation.network.edges import inject_edge_fault
from chaos.simulation.network.network import Network
from chaos.simulation.postgres import PostgresNode
from chaos.simulation.valkey import ValkeyNode
from holdfast.api.server import run_api
from holdfast.runtime.health import start_server
from holdfast.scheduler.role import run_scheduler
from holdfast.settings import Settings
from holdfast.worker.role import run_worker

API_PORT, HEALTH_PORT, SINK_PORT, COLLECTOR_PORT = 8000, 8081, 8090, 4318
_STOP_GRACE_SECONDS = 2.0
_CLIENTS, _SINK = "client", "sink"


class SimulatedEnvironment:
    """All processes of one run. ``up`` starts them; it runs on the harness's node.

    ``apps``: modules of handlers besides the workload's. ``directory``: for logs and the files of
    sink and collector.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        loop: SimulationLoop,
        network: Network,
        postgres: PostgresNode,
        valkey: ValkeyNode,
        directory: Path,
        apps: Sequence[str] = (),
    ) -> None:
        self.scenario = scenario
        self._loop = loop
        self._network = network
        self.postgres = postgres
        self.valkey = valkey
        self._directory = directory
        self._apps = apps
        self.actors: dict[str, SimulatedProcess] = {}
        self.observer: DatabaseObserver = CachingObserver(postgres)
        self.clients = ClientNode(scenario, seed, network)
        self._conditions = SimulatedConditions(scenario, loop, postgres, valkey)
        self._logs = directory / "logs"
        self._sink_log = directory / "sink.jsonl"
        self._spans_file = directory / "spans.otlp"

    async def up(self) -> None:
        """Start all processes and wait until all roles are ready.

        Raises:
            NotReady: a role did not become ready.
        """
        loop = self._loop
        self._conditions.arrange()
        loop.start(_SINK, self._serve_sink)
        loop.start(COLLECTOR, self._serve_collector)
        for name in self.scenario.topology.processes:
            port = API_PORT if name.startswith("api-") else HEALTH_PORT
            actor = SimulatedProcess(name, self._main(name), (self._network.host(name), port))
            self.actors[name] = actor
            actor.start()
        # The servers come up even if a role does not: the harness reads what happened.
        steps = [self._conditions.start_late(self.actors.values())]
        steps += [actor.ready() for actor in self.actors.values()]
        for error in await asyncio.gather(*steps, return_exceptions=True):
            if error is not None:
                raise error
        self.clients.start(loop)

    async def inject_edge_fault(
        self, plan: FaultSpec, fault_id: str, edges: tuple[str, ...], hold: Hold
    ) -> Observed:
        self._loop.trace.note("fault", ", ".join(edges), f"{fault_id} begins")
        try:
            return await inject_edge_fault(plan, edges, self._network, hold)
        finally:
            self._loop.trace.note("fault", ", ".join(edges), f"{fault_id} ends")

    async def inject_server_fault(self, fault: str, server: str, hold: Hold) -> Observed:
        self._loop.trace.note("fault", server, f"{fault} begins")
        try:
            return await SimulatedServerFaults(self.postgres, self.valkey).run(fault, server, hold)
        finally:
            self._loop.trace.note("fault", server, f"{fault} ends")

    async def heal(self, core: Sequence[str]) -> None:
        for name, actor in self.actors.items():
            if name not in core:
                actor.abandon()
        self._network.heal()
        await asyncio.gather(*(self.actors[name].ready(patient=True) for name in core))

    def api_url(self, api: str) -> str:
        return f"http://{self._network.host(api)}:{API_PORT}"

    def metrics_url(self, role: str) -> str:
        port = API_PORT if role.startswith("api-") else HEALTH_PORT
        return f"http://{self._network.host(role)}:{port}"

    async def hints_left(self) -> tuple[QueueHints, ...]:
        return await hints_left(self.valkey.ask, self.scenario.settings().redis_prefix)

    async def conditions(self, role: str) -> dict[str, dict[str, Any]]:
        return await self._conditions.shown(role)

    async def stop_roles(self) -> None:
        grace = self.scenario.settings().shutdown_grace_seconds + _STOP_GRACE_SECONDS
        await asyncio.gather(*(actor.stop(grace) for actor in self.actors.values()))

    def sink_calls(self) -> list[Call]:
        return read_calls(self._sink_log)

    def exports(self) -> list[bytes]:
        return read_exports(self._spans_file)

    @property
    def exits(self) -> list[ProcessEnd]:
        ends = [end for actor in self.actors.values() for end in actor.exits]
        return sorted(ends, key=lambda end: end.at)

    def observations(self, final_records: Sequence[Record], since: str) -> list[Sometimes]:
        write_logs(self.actors, self._logs)
        seen = observations(self.valkey.hints, final_records, self._logs, since)
        return [*seen, *self._conditions.observations()]

    def _main(self, name: str) -> Main:
        role = name.partition("-")[0]
        settings = self._settings(name)
        if role == "api":
            return lambda: run_api(settings)
        if role == "scheduler":
            return lambda: run_scheduler(settings)
        kinds = self.scenario.topology.knows.get(name, EFFECTS)
        apps = [*(f"chaos.tasks.{kind}" for kind in kinds), *self._apps]
        return lambda: run_worker(settings, apps)

    def _settings(self, name: str) -> Settings:
        own = {"queues": self.scenario.queues_of(name)} if name.startswith("worker-") else {}
        return self.scenario.settings(
            **own,
            **otlp.trace_settings(self.scenario.topology.settings),
            otlp_endpoint=f"http://{self._network.host(COLLECTOR)}:{COLLECTOR_PORT}",
            label=name,
            database_url=self.postgres.url(),
            redis_url=self.valkey.url(),
            # The host's own address in the simulated network.
            api_host="127.0.0.1",
            api_port=API_PORT,
            health_host="127.0.0.1",
            health_port=HEALTH_PORT,
            log_format="json",
            known_queues=self.scenario.unread_queues,
            api_keys=self.scenario.workload.api_keys,
        )

    async def _serve_sink(self) -> None:
        sink = Sink(self._sink_log)
        _, serving = await start_server(create_sink(sink), "127.0.0.1", SINK_PORT)
        await serving

    async def _serve_collector(self) -> None:
        collector = Collector(self._spans_file)
        app = create_collector(collector)
        _, serving = await start_server(app, "127.0.0.1", COLLECTOR_PORT)
        await serving


class ClientNode:
    """The clients on a separate node (``chaos.run.runner.SimulatedClients``)."""

    def __init__(self, scenario: Scenario, seed: int, network: Network) -> None:
        operations = generate(scenario.workload, seed)
        doors = [name for name in scenario.topology.processes if name.startswith("api-")]
        urls = [f"http://{network.host(name)}:{API_PORT}" for name in doors]
        self._zero = 0.0
        self._began = asyncio.Event()
        self._operations: list[Record] = []
        self._clients = SimulatedClients(
            operations, urls, self._operations.append, lambda: self._zero
        )
        self._node: Node | None = None

    def start(self, loop: SimulationLoop) -> None:
        """Start the node; the clients wait for ``begin``."""
        self._node = loop.start(_CLIENTS, self._run)

    def begin(self, zero: float) -> None:
        self._zero = zero
        self._began.set()

    async def done(self) -> None:
        if self._node is None or await self._node.wait() != 0:
            output = self._node.output[-15:] if self._node else ["they were never started"]
            raise ActorFailed("the clients failed:\n" + "\n".join(output))

    def answered(self) -> int:
        return self._clients.answered

    def operations(self) -> list[Record]:
        return self._operations

    async def _run(self) -> None:
        await self._began.wait()
        await self._clients.run()
