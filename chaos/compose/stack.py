"""The stack of one scenario in containers: a compose project of its own, up and removed again."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path

import asyncpg

from chaos.collector import read_exports
from chaos.compose import edges
from chaos.compose.containers import Container
from chaos.compose.docker import UP_SECONDS, Project, Sight, engine, save_log
from chaos.compose.gauge import Gauge
from chaos.compose.override import COMPOSE_FILE, HELPERS, override, write
from chaos.compose.servers import ContainerServer, ContainerServerStrike
from chaos.live.edges import strike_edges
from chaos.live.ground import Site
from chaos.live.toxics import Change, Proxies
from chaos.mutants import SOURCES
from chaos.nemesis import Felt, Hold
from chaos.plan import FaultPlan
from chaos.process_strike import ProcessEnd
from chaos.records import Record, Sometimes
from chaos.sightings import SeenHint, sightings
from chaos.sink import Call, read_calls
from chaos.tasks.sql import CHAOS_EFFECTS
from chaos.witness import Witness
from system.machine import free_port


class Stack:
    """Everything of one scenario, under the names that scenarios use.

    ``image``: has the image of its roles made, if there is none yet, and names it.
    """

    def __init__(self, site: Site, image: Callable[[], Awaitable[str]]) -> None:
        self.scenario = site.scenario
        self.clients = site.clients
        self.hints: list[SeenHint] = []
        self.exits: list[ProcessEnd] = []
        self._site = site
        self._image = image
        self._doors = {
            edge: free_port()
            for edge in site.scenario.topology.edges
            if edge.startswith("client->")
        }
        self._ports = {name: free_port() for name in ("toxiproxy", "gauge", "postgres", "redis")}
        self._password = secrets.token_hex(16)
        postgres = f"holdfast:{self._password}@127.0.0.1:{self._ports['postgres']}"
        self._postgres_url = f"postgresql://{postgres}/holdfast"
        self.witness = Witness(self._postgres_url)
        self.gauge = Gauge(self._ports["gauge"])
        self.proxies = Proxies(self._ports["toxiproxy"], self._changed)
        self.actors = {
            name: Container(name, self.gauge, self._exited)
            for name in site.scenario.topology.processes
        }
        self._receivers: dict[str, str] = {}
        self._servers: ContainerServerStrike
        self._project: Project

    @property
    def probes(self) -> dict[str, int]:
        """None: the roles' own ports are not published."""
        return {}

    @property
    def redis_url(self) -> str:
        """Redis itself, around all proxies."""
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    @property
    def doors(self) -> Sequence[int]:
        """On this machine, published by Toxiproxy's container."""
        return list(self._doors.values())

    def environment(self) -> dict[str, str]:
        """Of the clients, which are not in containers."""
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": path, "PYTHONPATH": str(SOURCES), "PYTHONUNBUFFERED": "1"}

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Stack]:
        """All containers healthy inside the block; afterwards nothing of the project is left."""
        self._site.directory.mkdir(parents=True)
        changes = self._site.directory / "override.yml"
        write(override(self.scenario, self._doors), changes)
        self._project = Project(
            f"holdfast-chaos-{os.getpid()}-{secrets.token_hex(4)}",
            SOURCES,
            (COMPOSE_FILE, changes),
            self._variables(await self._image()),
        )
        try:
            async with self._project.watched(self._saw):
                await self._project.up(HELPERS, wait=True)
                await self._know_helpers()
                # Whoever does not come up at first is started again, as at any later time.
                await self._project.up(self.scenario.topology.processes, wait=False)
                await asyncio.gather(*(actor.ready(UP_SECONDS) for actor in self.actors.values()))
                await self._prepare()
                yield self
        finally:
            # Also when this is cancelled: containers must not outlive the run.
            await asyncio.shield(self._remove())

    def _variables(self, image: str) -> dict[str, str]:
        """Everything that the compose file asks for."""
        ports = self._ports | {"api_1": self._doors["client->api-1"]}
        return {f"CHAOS_{name.upper()}_PORT": str(port) for name, port in ports.items()} | {
            "CHAOS_IMAGE": image,
            "POSTGRES_PASSWORD": self._password,
            "GRAFANA_PASSWORD": secrets.token_hex(16),
        }

    async def _know_helpers(self) -> None:
        """Every edge has its proxy, and the servers can be struck."""
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
        self._servers = ContainerServerStrike(postgres, redis, self.witness)

    async def _prepare(self) -> None:
        """The table of the handlers that have one."""
        connection = await asyncpg.connect(self._postgres_url)
        try:
            await connection.execute(CHAOS_EFFECTS)
        finally:
            await connection.close()

    async def strike_edges(
        self, plan: FaultPlan, fault_id: str, edges_: tuple[str, ...], hold: Hold
    ) -> Felt:
        """By toxics; felt by what the gauge counts and is answered meanwhile."""
        ports = {edge: edges.port(edge) for edge in edges_}
        return await strike_edges(plan, fault_id, ports, self.proxies, self.gauge, hold)

    async def strike_server(self, fault: str, server: str, hold: Hold) -> Felt:
        """By the engine, and by what the servers themselves offer."""
        return await self._servers.run(fault, server, hold)

    async def heal(self, core: Collection[str]) -> None:
        """Mend the edges of the core, and wait until all of it works; every other role is killed
        for good. Raises ActorFailed.
        """
        for name, actor in self.actors.items():
            if name not in core:
                actor.abandon()
        await self.proxies.heal(core)
        await asyncio.gather(*(self.actors[name].ready(patient=True) for name in core))

    async def stop_roles(self) -> None:
        """``docker stop``, and SIGKILL after the grace; then their logs, and the sink's."""
        grace = self.scenario.settings().shutdown_grace_seconds + 2.0
        await asyncio.gather(*(actor.stop(grace) for actor in self.actors.values()))
        for name, actor in self.actors.items():
            await save_log(actor.container, self._site.logs / f"{name}.log")
        await self._fetch("sink", self._sink_log)
        await self._fetch("collector", self._spans_file)

    def sink_calls(self) -> list[Call]:
        """What the receiver of external effects has seen."""
        return read_calls(self._sink_log)

    def exports(self) -> list[bytes]:
        """What the collector of spans has received."""
        return read_exports(self._spans_file)

    def sightings(self, testimony: Sequence[Record], since: str) -> list[Sometimes]:
        """What the hint watch saw and what the roles logged."""
        return sightings(self.hints, testimony, self._site.logs, since)

    @property
    def _sink_log(self) -> Path:
        return self._site.directory / "sink.jsonl"

    @property
    def _spans_file(self) -> Path:
        return self._site.directory / "spans.otlp"

    async def _fetch(self, receiver: str, file: Path) -> None:
        """What it has written, if it was ever called; base64, for a terminal carries text only."""
        script = "[ ! -f /tmp/received ] || base64 /tmp/received"
        text = await engine("exec", self._receivers[receiver], "sh", "-c", script)
        file.write_bytes(base64.b64decode(text))

    async def _remove(self) -> None:
        await self.witness.close()
        await self.gauge.close()
        try:
            # Of everything, and also of a run that did not come to its end.
            await self._project.save_log(self._site.logs / "project.log")
        finally:
            await self._project.down()

    def _saw(self, sight: Sight) -> None:
        if not sight.action.startswith("exec_"):
            self._site.journal({"journal": "container"} | asdict(sight))
        actor = self.actors.get(sight.service)
        if actor is not None:
            actor.saw(sight)

    def _exited(self, end: ProcessEnd) -> None:
        self.exits.append(end)
        self._site.journal({"journal": "exit"} | asdict(end))

    def _changed(self, change: Change) -> None:
        self._site.journal({"journal": "proxy"} | asdict(change))
