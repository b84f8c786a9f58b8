"""The stack of one scenario: real servers, one proxy per edge, every role a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg

from chaos import telemetry
from chaos.collector import read_exports
from chaos.live.actors import Actor, Command, tail
from chaos.live.clients import Clients
from chaos.live.edges import strike_edges
from chaos.live.ground import Site
from chaos.live.servers import ServerStrike
from chaos.live.toxics import Change, Proxies
from chaos.live.toxiproxy_binary import toxiproxy_binary
from chaos.live.wire import LocalWire
from chaos.load import EFFECTS
from chaos.mutants import SOURCES, copy
from chaos.nemesis import Felt, Hold
from chaos.plan import DeclaredSettings, FaultPlan
from chaos.process_strike import ActorFailed, ProcessEnd
from chaos.records import Record, Sometimes
from chaos.scenario import Scenario
from chaos.sightings import SeenHint, sightings
from chaos.sink import Call, read_calls
from chaos.tasks.external import SINK_URL
from chaos.tasks.sql import CHAOS_EFFECTS
from chaos.witness import Witness
from system.embedded import EmbeddedPostgres, EmbeddedValkey
from system.guardian import Reaper
from system.machine import free_port, temporary_directory
from system.migrate import upgrade_in_loop

_TEMPLATE = "holdfast_template"
_LISTEN_SECONDS = 10.0


@dataclass(slots=True)
class Foundation:
    """What all scenarios of a suite share: one reaper, one directory, one Postgres server.

    Every scenario gets a fresh database, cloned from a migrated template. ``sources`` is a copy of
    our packages as they were at the start: roles are started again and again during a run, and
    whoever edits a file meanwhile must not change what is being judged.
    """

    reaper: Reaper
    directory: Path
    postgres: EmbeddedPostgres
    toxiproxy: Path
    sources: Path

    @property
    def arena(self) -> Literal["live"]:
        """Its name."""
        return "live"

    def stack(self, site: Site) -> Stack:
        """The stack of one run, with a database of its own."""
        return Stack(
            scenario=site.scenario,
            foundation=self,
            directory=site.directory,
            logs=site.logs,
            sources=site.sources or self.sources,
            journal=site.journal,
            database=f"run_{time.time_ns()}",
            clients=site.clients,
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def laid(cls) -> AsyncIterator[Foundation]:
        """Up inside the block; afterwards nothing of it is left, whatever happened."""
        toxiproxy = await asyncio.to_thread(toxiproxy_binary)
        with Reaper() as reaper:
            directory = temporary_directory("holdfast-chaos-")
            reaper.own_directory(directory)
            sources = await asyncio.to_thread(copy, SOURCES, directory / "sources")
            postgres = EmbeddedPostgres(directory / "postgres", reaper=reaper)
            await asyncio.to_thread(postgres.start)
            try:
                await _make_template(postgres)
                yield cls(reaper, directory, postgres, toxiproxy, sources)
            finally:
                await asyncio.to_thread(postgres.stop)


async def _make_template(postgres: EmbeddedPostgres) -> None:
    await asyncio.to_thread(postgres.create_database, _TEMPLATE)
    url = postgres.url(_TEMPLATE)
    await upgrade_in_loop(DeclaredSettings(database_url=url))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(CHAOS_EFFECTS)
    finally:
        await connection.close()


@dataclass(slots=True)
class Stack:
    """Everything of one scenario, under the names that scenarios use.

    ``ports``: of each edge's proxy. ``sources``: where the roles' code is (the foundation's, or
    a mutant's). ``exits``: every end of a role's process, in order.
    """

    scenario: Scenario
    foundation: Foundation
    directory: Path
    logs: Path
    sources: Path
    journal: Callable[[dict[str, Any]], None]
    database: str
    clients: Clients
    hints: list[SeenHint] = field(default_factory=list)
    valkey: EmbeddedValkey = field(init=False)
    proxies: Proxies = field(init=False)
    witness: Witness = field(init=False)
    actors: dict[str, Actor] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    exits: list[ProcessEnd] = field(default_factory=list)
    helpers: list[Actor] = field(default_factory=list)

    @property
    def postgres(self) -> EmbeddedPostgres:
        return self.foundation.postgres

    @property
    def doors(self) -> list[int]:
        """The ports where clients find the APIs: those of the proxies before them."""
        return [port for edge, port in self.ports.items() if edge.startswith("client->")]

    @property
    def probes(self) -> dict[str, int]:
        """The ports where roles serve ``/metrics``, by name."""
        return {name: self.ports[name] for name in self.scenario.topology.processes}

    @property
    def redis_url(self) -> str:
        """Redis itself, around all proxies."""
        return self.valkey.url()

    def sink_calls(self) -> list[Call]:
        """What the receiver of external effects has seen."""
        return read_calls(self._sink_log)

    def exports(self) -> list[bytes]:
        """What the collector of spans has received."""
        return read_exports(self._spans_file)

    def sightings(self, testimony: Sequence[Record], since: str) -> list[Sometimes]:
        """What the hint watch saw and what the roles logged."""
        return sightings(self.hints, testimony, self.logs, since)

    @property
    def _sink_log(self) -> Path:
        return self.directory / "sink.jsonl"

    @property
    def _spans_file(self) -> Path:
        return self.directory / "spans.otlp"

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Stack]:
        """All roles ready inside the block; stopped after it."""
        self.directory.mkdir(parents=True)
        self.valkey = EmbeddedValkey(self.directory / "valkey", reaper=self.foundation.reaper)
        try:
            if not self.postgres.is_running:  # the run before failed in the middle of a strike
                await asyncio.to_thread(self.postgres.start)
            template = asyncio.to_thread(self.postgres.create_database, self.database, _TEMPLATE)
            await asyncio.gather(template, asyncio.to_thread(self.valkey.start))
            self.witness = Witness(self.postgres.url(self.database))
            sink = self._receiver("sink", "--log", self._sink_log)
            collector = self._receiver("collector", "--file", self._spans_file)
            ports = await asyncio.gather(sink, collector)
            await self._connect(dict(zip(("sink", "collector"), ports, strict=True)))
            for name in self.scenario.topology.processes:
                self._actor(name).start()
            await asyncio.gather(*(actor.ready() for actor in self.actors.values()))
            yield self
        finally:
            await asyncio.shield(self.stop())

    async def strike_edges(
        self, plan: FaultPlan, fault_id: str, edges: tuple[str, ...], hold: Hold
    ) -> Felt:
        """By toxics; felt by what goes through the proxies meanwhile."""
        ports = {edge: self.ports[edge] for edge in edges}
        return await strike_edges(plan, fault_id, ports, self.proxies, LocalWire(), hold)

    async def strike_server(self, fault: str, server: str, hold: Hold) -> Felt:
        """By signals and by what the servers themselves offer."""
        return await ServerStrike(self.postgres, self.valkey, self.witness).run(fault, server, hold)

    async def heal(self, core: Collection[str]) -> None:
        """Mend the edges of the core, and wait until all of it works; ActorFailed if it does not.

        Every other role is killed for good: what it held is the core's to sort out.
        """
        self.abandon(core)
        await self.proxies.heal(core)
        await asyncio.gather(*(self.actors[name].ready(patient=True) for name in core))

    def abandon(self, core: Collection[str]) -> None:
        """Kill every role outside the core, for good: what they held is the core's to sort out."""
        for name, actor in self.actors.items():
            if name not in core:
                actor.abandon()

    async def stop_roles(self) -> None:
        """Stop the roles for good: SIGTERM, and SIGKILL after the grace that they have."""
        grace = self.scenario.settings().shutdown_grace_seconds + 2.0
        await asyncio.gather(*(actor.stop(grace) for actor in self.actors.values()))

    async def stop(self) -> None:
        """Stop everything; what is stopped already is left alone."""
        await self.stop_roles()
        await asyncio.gather(*(helper.stop() for helper in self.helpers))
        if hasattr(self, "witness"):
            await self.witness.close()
        await asyncio.to_thread(self.valkey.stop)
        if self.postgres.is_running:
            await asyncio.to_thread(self.postgres.drop_database, self.database)

    async def _receiver(self, name: str, option: str, file: Path) -> int:
        """Start the receiver ``chaos.{name}``, which writes to that file; its port."""
        port_file = self.directory / f"{name}.port"
        argv = [sys.executable, "-m", f"chaos.{name}", option, str(file)]
        self._helper(name, [*argv, "--port-file", str(port_file)])
        give_up = time.monotonic() + _LISTEN_SECONDS
        while not port_file.exists():
            if time.monotonic() > give_up:
                log = tail(self.logs / f"{name}.log")
                raise ActorFailed(f"the {name} did not start:\n{log}")
            await asyncio.sleep(0.02)
        return int(port_file.read_text(encoding="ascii"))

    async def _connect(self, receivers: dict[str, int]) -> None:
        """Start Toxiproxy and make a proxy for every edge. ``receivers``: port by name."""
        port = free_port()
        binary = str(self.foundation.toxiproxy)
        self._helper("toxiproxy", [binary, "-host", "127.0.0.1", "-port", str(port)])
        await self._listening(port)
        self.proxies = Proxies(port, self._changed)
        upstream = {"postgres": self.postgres.port, "redis": self.valkey.port} | receivers
        upstream |= {name: free_port() for name in self.scenario.topology.processes}
        for edge in self.scenario.topology.edges:
            self.ports[edge] = await self.proxies.create(edge, upstream[edge.partition("->")[2]])
        # Of a role's own: the port of its API or of its health server.
        self.ports |= {name: upstream[name] for name in self.scenario.topology.processes}

    async def _listening(self, port: int) -> None:
        give_up = time.monotonic() + _LISTEN_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if time.monotonic() > give_up:
                    log = tail(self.logs / "toxiproxy.log")
                    raise ActorFailed(f"Toxiproxy did not start:\n{log}") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    def _actor(self, name: str) -> Actor:
        role = name.partition("-")[0]
        argv = [sys.executable, "-m"]
        clock = self.directory / f"{name}.clock" if name in self._clocks_to_move() else None
        if clock is not None:
            argv += ["chaos.live.skewed", str(clock)]
        argv += ["system", role]
        if role == "worker":
            for kind in self.scenario.topology.knows.get(name, EFFECTS):
                argv += ["--app", f"chaos.tasks.{kind}"]
        environment = self.environment() | self._settings_of(name)
        ready_url = f"{self._home(name)}/readyz"
        self.actors[name] = self._process(name, argv, environment, ready_url, clock)
        return self.actors[name]

    def _clocks_to_move(self) -> set[str]:
        topology = self.scenario.topology
        skews = [plan for plan in self.scenario.faults if plan.fault == "skew"]
        return {target for plan in skews for target in plan.candidates(topology)}

    def _settings_of(self, name: str) -> dict[str, str]:
        """A role's variables: it reaches everything through its own proxies."""
        ports = self.ports
        declared = telemetry.settings(self.scenario.topology.settings)
        given = {key: _as_variable(value) for key, value in declared.items()} | {
            "label": name,
            "database_url": self.postgres.url(self.database, port=ports[f"{name}->postgres"]),
            "redis_url": self.valkey.url(port=ports[f"{name}->redis"]),
            "api_port" if name.startswith("api-") else "health_port": str(ports[name]),
            "otlp_endpoint": f"http://127.0.0.1:{ports[f'{name}->collector']}",
            "log_format": "json",
        }
        variables = {f"HOLDFAST_{key.upper()}": value for key, value in given.items()}
        if name.startswith("worker-"):
            variables[SINK_URL] = f"http://127.0.0.1:{ports[f'{name}->sink']}"
        return variables

    def _home(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def _helper(self, name: str, argv: list[str]) -> None:
        helper = self._process(name, argv, self.environment(), None)
        self.helpers.append(helper)
        helper.start()

    def _process(
        self,
        name: str,
        argv: list[str],
        environment: dict[str, str],
        ready_url: str | None,
        clock: Path | None = None,
    ) -> Actor:
        log = self.logs / f"{name}.log"
        # Not in a directory that has a package of that name: the working directory comes first.
        command = Command(argv, environment, self.directory, log, ready_url, clock)
        return Actor(name, command, self.foundation.reaper, self._exited)

    def environment(self) -> dict[str, str]:
        """Nothing of the harness's own but what finding programs and sources needs."""
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": path, "PYTHONPATH": str(self.sources), "PYTHONUNBUFFERED": "1"}

    def _exited(self, end: ProcessEnd) -> None:
        if end.actor in self.actors:
            self.exits.append(end)
        self.journal({"journal": "exit"} | asdict(end))

    def _changed(self, change: Change) -> None:
        self.journal({"journal": "proxy"} | asdict(change))


def _as_variable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
