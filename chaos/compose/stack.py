"""Run one scenario's stack in containers, as a compose project of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncpg

from chaos.compose import edges
from chaos.compose.containers import Container
from chaos.compose.docker import UP_SECONDS, ContainerEvent, Project, engine, save_log
from chaos.compose.override import COMPOSE_FILE, HELPERS, override, write
from chaos.compose.servers import ContainerServer, ContainerServerFault
from chaos.compose.socket_stats import RemoteSocketStats
from chaos.history.records import Record, Sometimes
from chaos.history.rest import QueueHints
from chaos.live.edges import inject_edge_fault
from chaos.live.stack_factory import StackSpec
from chaos.live.toxics import Change, Proxies
from chaos.mutants import SOURCES, import_path
from chaos.nemesis.process_faults import Hold, Observed, ProcessEnd
from chaos.observers.collector import read_exports
from chaos.observers.database import DatabaseObserver
from chaos.observers.hints import hints_left_at
from chaos.observers.logs import SeenHint, observations
from chaos.observers.sink import Call, read_calls
from chaos.scenario.faults import FaultSpec
from chaos.tasks.sql import CHAOS_EFFECTS
from holdfast.devstack.host import free_port


class ContainerStack:
    """Everything of one scenario, under the names that scenarios use.

    ``image`` returns the name of the roles' image, which it builds if necessary.
    """

    def __init__(self, spec: StackSpec, image: Callable[[], Awaitable[str]]) -> None:
        self.scenario = spec.scenario
        self.clients = spec.clients
        self.hints: list[SeenHint] = []
        self.exits: list[ProcessEnd] = []
        self._spec = spec
        self._image = image
        self._api_ports = {
            edge: free_port()
            for edge in spec.scenario.topology.edges
            if edge.startswith("client->")
        }
        self._ports = {
            name: free_port() for name in ("toxiproxy", "socket_stats", "postgres", "redis")
        }
        self._password = secrets.token_hex(16)
        postgres = f"holdfast:{self._password}@127.0.0.1:{self._ports['postgres']}"
        self._postgres_url = f"postgresql://{postgres}/holdfast"
        self.observer = DatabaseObserver(self._postgres_url)
        self.socket_stats = RemoteSocketStats(self._ports["socket_stats"])
        self.proxies = Proxies(self._ports["toxiproxy"], self._changed)
        self.actors = {
            name: Container(name, self.socket_stats, self._exited)
            for name in spec.scenario.topology.processes
        }
        self._receivers: dict[str, str] = {}
        self._servers: ContainerServerFault
        self._project: Project

    @property
    def probes(self) -> dict[str, int]:
        """Empty, because the roles' own ports are not published."""
        return {}

    @property
    def redis_url(self) -> str:
        """The URL of Redis itself, which bypasses all proxies."""
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    @property
    def api_ports(self) -> Sequence[int]:
        """Ports of this machine, published by Toxiproxy's container."""
        return list(self._api_ports.values())

    def environment(self) -> dict[str, str]:
        """Return the variables of the clients, which are not in containers."""
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": path, "PYTHONPATH": import_path(SOURCES), "PYTHONUNBUFFERED": "1"}

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[ContainerStack]:
        """Start the project; all roles are ready inside the block, all is removed after it."""
        self._spec.directory.mkdir(parents=True)
        changes = self._spec.directory / "override.yml"
        write(override(self.scenario, self._api_ports), changes)
        self._project = Project(
            f"holdfast-chaos-{os.getpid()}-{secrets.token_hex(4)}",
            SOURCES,
            (COMPOSE_FILE, changes),
            self._variables(await self._image()),
        )
        try:
            async with self._project.watched(self._container_event):
                await self._project.up(HELPERS, wait=True)
                await self._connect_helpers()
                # A role that fails to start is restarted, as at any later time.
                await self._project.up(self.scenario.topology.processes, wait=False)
                await asyncio.gather(*(actor.ready(UP_SECONDS) for actor in self.actors.values()))
                await self._prepare()
                yield self
        finally:
            # Shielded, because containers must not outlive a cancelled run.
            await asyncio.shield(self._remove())

    def _variables(self, image: str) -> dict[str, str]:
        """Return every variable that the compose file uses."""
        ports = self._ports | {"api_1": self._api_ports["client->api-1"]}
        return {f"CHAOS_{name.upper()}_PORT": str(port) for name, port in ports.items()} | {
            "CHAOS_IMAGE": image,
            "POSTGRES_PASSWORD": self._password,
            "GRAFANA_PASSWORD": secrets.token_hex(16),
        }

    async def _connect_helpers(self) -> None:
        """Register the proxy of every edge; get control of the servers."""
        self._receivers = {
            name: await self._project.container(name) for name in ("sink", "collector")
        }
        for edge in self.scenario.topology.edges:
            await self.proxies.adopt(edge, edges.listen(edge), edges.upstream(edge))
        postgres, redis = [
            ContainerServer(
                kind,
                await self._project.container(f"chaos-{kind}"),
                self._ports[kind],
                url,
            )
            for kind, url in (("postgres", self._postgres_url), ("redis", self.redis_url))
        ]
        self._servers = ContainerServerFault(postgres, redis, self.observer)

    async def _prepare(self) -> None:
        """Create the table that the handlers use."""
        connection = await asyncpg.connect(self._postgres_url)
        try:
            await connection.execute(CHAOS_EFFECTS)
        finally:
            await connection.close()

    async def inject_edge_fault(
        self, fault: FaultSpec, fault_id: str, edges_: tuple[str, ...], hold: Hold
    ) -> Observed:
        """Apply toxics; observe the traffic through the proxies meanwhile."""
        ports = {edge: edges.port(edge) for edge in edges_}
        return await inject_edge_fault(
            fault, fault_id, ports, self.proxies, self.socket_stats, hold
        )

    async def inject_server_fault(self, fault: str, server: str, hold: Hold) -> Observed:
        """Use the engine and the commands of the servers themselves."""
        return await self._servers.run(fault, server, hold)

    async def heal(self, core: Collection[str]) -> None:
        """Kill the roles outside the core, repair the edges, wait until the core is ready.

        Raises ActorFailed.
        """
        for name, actor in self.actors.items():
            if name not in core:
                actor.abandon()
        await self.proxies.heal(core)
        await asyncio.gather(*(self.actors[name].ready(patient=True) for name in core))

    def api_url(self, api: str) -> str:
        """Return the published address of an API: its clients' edge, healed when it is used."""
        return f"http://127.0.0.1:{self._api_ports[f'client->{api}']}"

    def metrics_url(self, role: str) -> None:
        """Return None: only APIs publish a port, and that is the edge of their clients."""

    async def hints_left(self) -> tuple[QueueHints, ...]:
        """Return the hints in Redis, over its published port."""
        return await hints_left_at(self.redis_url, self.scenario.settings().redis_prefix)

    async def conditions(self, role: str) -> dict[str, dict[str, Any]]:
        """Return nothing: ``require_fit`` refuses scenarios with conditions."""
        return {}

    async def stop_roles(self) -> None:
        """Stop the roles (SIGKILL after the grace); then save the logs and what was received."""
        grace = self.scenario.settings().shutdown_grace_seconds + 2.0
        await asyncio.gather(*(actor.stop(grace) for actor in self.actors.values()))
        for name, actor in self.actors.items():
            await save_log(actor.container, self._spec.logs / f"{name}.log")
        await self._fetch("sink", self._sink_log)
        await self._fetch("collector", self._spans_file)

    def sink_calls(self) -> list[Call]:
        """Return the calls that the sink of external effects received."""
        return read_calls(self._sink_log)

    def exports(self) -> list[bytes]:
        """Return the span exports that the collector received."""
        return read_exports(self._spans_file)

    def observations(self, final_records: Sequence[Record], since: str) -> list[Sometimes]:
        """Return what the hint watch saw and what the roles logged."""
        return observations(self.hints, final_records, self._spec.logs, since)

    @property
    def _sink_log(self) -> Path:
        return self._spec.directory / "sink.jsonl"

    @property
    def _spans_file(self) -> Path:
        return self._spec.directory / "spans.otlp"

    async def _fetch(self, receiver: str, file: Path) -> None:
        """Copy the receiver's file, if it has one; as base64, because exec carries text only."""
        script = "[ ! -f /tmp/received ] || base64 /tmp/received"
        text = await engine("exec", self._receivers[receiver], "sh", "-c", script)
        file.write_bytes(base64.b64decode(text))

    async def _remove(self) -> None:
        await self.observer.close()
        await self.socket_stats.close()
        try:
            # Save the log of a failed run, too.
            await self._project.save_log(self._spec.logs / "project.log")
        finally:
            await self._project.down()

    def _container_event(self, event: ContainerEvent) -> None:
        if not event.action.startswith("exec_"):
            self._spec.journal({"journal": "container"} | asdict(event))
        actor = self.actors.get(event.service)
        if actor is not None:
            actor.handle_event(event)

    def _exited(self, end: ProcessEnd) -> None:
        self.exits.append(end)
        self._spec.journal({"journal": "exit"} | asdict(end))

    def _changed(self, change: Change) -> None:
        self._spec.journal({"journal": "proxy"} | asdict(change))
