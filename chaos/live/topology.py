"""Run one scenario's stack: real servers, one proxy per edge, each role a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from chaos.history.records import Record, Sometimes
from chaos.history.rest import QueueHints
from chaos.live.actors import READY_SECONDS, Command, SupervisedProcess, tail
from chaos.live.clients import LocustProcess
from chaos.live.conditions import RealConditions, valkey_lines
from chaos.live.edges import inject_edge_fault, require_direct
from chaos.live.relay import Relay, drop_silently
from chaos.live.servers import ServerFault
from chaos.live.socket_stats import LocalSocketStats
from chaos.live.stack_factory import StackSpec
from chaos.live.toxics import Change, Proxies
from chaos.live.toxiproxy_binary import toxiproxy_binary
from chaos.mutants import SOURCES, copy, import_path
from chaos.nemesis.demotable_valkey import DemotableValkey
from chaos.nemesis.process_faults import ActorFailed, Hold, Observed, ProcessEnd
from chaos.observers import otlp
from chaos.observers.collector import read_exports
from chaos.observers.database import DatabaseObserver
from chaos.observers.hints import hints_left_at
from chaos.observers.logs import SeenHint, observations
from chaos.observers.sink import Call, read_calls
from chaos.scenario.faults import DeclaredSettings, FaultSpec
from chaos.scenario.operations import EFFECTS
from chaos.scenario.scenario import Scenario
from chaos.tasks.external import SINK_URL
from chaos.tasks.sql import CHAOS_EFFECTS
from holdfast.devstack.host import free_port, temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres
from holdfast.store.migrate import upgrade_in_loop

_TEMPLATE = "holdfast_template"


@dataclass(slots=True)
class ProcessStackFactory:
    """What all stacks of a suite share: one reaper, one directory, one Postgres server.

    Each stack gets a fresh database, cloned from a migrated template. ``sources`` is a copy of our
    packages: roles are restarted during a run, and editing a file meanwhile must not change what
    is being judged.
    """

    reaper: Reaper
    directory: Path
    postgres: EmbeddedPostgres
    toxiproxy: Path
    sources: Path

    def stack(self, spec: StackSpec) -> ProcessStack:
        """Return the stack of one run, which has a database of its own."""
        return ProcessStack(spec, self.reaper, self.postgres, self.toxiproxy)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[ProcessStackFactory]:
        """Start the shared server; everything is stopped and removed after the block."""
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
class ProcessStack:
    """Everything of one scenario, under the names that scenarios use.

    ``ports``: of each edge's proxy. ``exits``: every end of a role's process, in order.
    """

    spec: StackSpec
    reaper: Reaper
    postgres: EmbeddedPostgres
    toxiproxy: Path
    database: str = field(default_factory=lambda: f"run_{time.time_ns()}")
    hints: list[SeenHint] = field(default_factory=list)
    valkey: DemotableValkey = field(init=False)
    proxies: Proxies = field(init=False)
    observer: DatabaseObserver = field(init=False)
    _conditions: RealConditions = field(init=False)
    actors: dict[str, SupervisedProcess] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    exits: list[ProcessEnd] = field(default_factory=list)
    relays: dict[str, Relay] = field(default_factory=dict)
    helpers: list[SupervisedProcess] = field(default_factory=list)

    @property
    def scenario(self) -> Scenario:
        return self.spec.scenario

    @property
    def clients(self) -> LocustProcess:
        return self.spec.clients

    @property
    def api_ports(self) -> list[int]:
        """The ports where clients reach the APIs, which are those of their proxies."""
        return [port for edge, port in self.ports.items() if edge.startswith("client->")]

    @property
    def probes(self) -> dict[str, int]:
        """The ports where roles serve ``/metrics``, by name."""
        return {name: self.ports[name] for name in self.scenario.topology.processes}

    @property
    def redis_url(self) -> str:
        """The URL of Redis itself, which bypasses all proxies."""
        return self.valkey.url()

    def sink_calls(self) -> list[Call]:
        """Return the calls that the sink of external effects received."""
        return read_calls(self._sink_log)

    def exports(self) -> list[bytes]:
        """Return the span exports that the collector received."""
        return read_exports(self._spans_file)

    def observations(self, final_records: Sequence[Record], since: str) -> list[Sometimes]:
        """Return what the hint watch saw and what the roles logged."""
        seen = observations(self.hints, final_records, self.spec.logs, since)
        return [*seen, *self._conditions.observations()]

    @property
    def _sink_log(self) -> Path:
        return self.spec.directory / "sink.jsonl"

    @property
    def _spans_file(self) -> Path:
        return self.spec.directory / "spans.otlp"

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[ProcessStack]:
        """Start everything; all roles are ready inside the block and stopped after it."""
        self.spec.directory.mkdir(parents=True)
        environment = self.scenario.topology.environment
        self.valkey = DemotableValkey(
            self.spec.directory / "valkey", reaper=self.reaper, lines=valkey_lines(environment)
        )
        try:
            if not self.postgres.is_running:  # the previous run failed during a fault
                await asyncio.to_thread(self.postgres.start)
            self._conditions = RealConditions(
                environment, self.postgres, self.valkey, self.database
            )
            template = asyncio.to_thread(self.postgres.create_database, self.database, _TEMPLATE)
            await asyncio.gather(template, asyncio.to_thread(self.valkey.start))
            await self._conditions.arrange(self.spec.directory / "pgbouncer", self.reaper)
            self.observer = DatabaseObserver(self.postgres.url(self.database))
            sink = self._receiver("sink", "--log", self._sink_log)
            collector = self._receiver("collector", "--file", self._spans_file)
            ports = await asyncio.gather(sink, collector)
            await self._connect(dict(zip(("sink", "collector"), ports, strict=True)))
            for name in self.scenario.topology.processes:
                self._actor(name)
            await self._conditions.start_roles(self.actors.values())
            await asyncio.gather(*(actor.ready() for actor in self.actors.values()))
            yield self
        finally:
            await asyncio.shield(self.stop())

    async def inject_edge_fault(
        self, fault: FaultSpec, fault_id: str, edges: tuple[str, ...], hold: Hold
    ) -> Observed:
        """Apply toxics; observe the traffic through the proxies meanwhile."""
        if fault.fault == "silent_drop":
            relays = {edge: self.relays[edge] for edge in edges}
            return await drop_silently(relays, self.proxies, hold)
        ports = {edge: self.ports[edge] for edge in edges}
        return await inject_edge_fault(
            fault, fault_id, ports, self.proxies, LocalSocketStats(), hold
        )

    async def inject_server_fault(self, fault: str, server: str, hold: Hold) -> Observed:
        """Use signals and the commands of the servers themselves."""
        return await ServerFault(self.postgres, self.valkey, self.observer).run(fault, server, hold)

    async def heal(self, core: Collection[str]) -> None:
        """Kill the roles outside the core, repair the edges, wait until the core is ready.

        Raises ActorFailed.
        """
        self.abandon(core)
        await self.proxies.heal(core)
        await asyncio.gather(*(self.actors[name].ready(patient=True) for name in core))

    def abandon(self, core: Collection[str]) -> None:
        """Kill every role outside the core for good; the core must recover what they held."""
        for name, actor in self.actors.items():
            if name not in core:
                actor.abandon()

    def api_url(self, api: str) -> str:
        """Return the address at which an API listens, without its proxy."""
        return self._home(api)

    def metrics_url(self, role: str) -> str:
        """Return the address at which a role listens."""
        return self._home(role)

    async def hints_left(self) -> tuple[QueueHints, ...]:
        """Return the hints in Redis, read without a proxy."""
        return await hints_left_at(self.redis_url, self.scenario.settings().redis_prefix)

    async def conditions(self, role: str) -> dict[str, dict[str, Any]]:
        """Return what shows each condition, over the edges of ``role``."""
        return await self._conditions.shown(self._postgres_url(role), self.ports[f"{role}->redis"])

    async def stop_roles(self) -> None:
        """Stop the roles for good: SIGTERM, then SIGKILL after their grace."""
        grace = self.scenario.settings().shutdown_grace_seconds + 2.0
        await asyncio.gather(*(actor.stop(grace) for actor in self.actors.values()))

    async def stop(self) -> None:
        """Stop everything that still runs."""
        await self.stop_roles()
        await asyncio.gather(*(helper.stop() for helper in self.helpers))
        await asyncio.gather(*(relay.close() for relay in self.relays.values()))
        if hasattr(self, "observer"):
            await self.observer.close()
        if hasattr(self, "_conditions"):
            await self._conditions.close()
        await asyncio.to_thread(self.valkey.stop)
        if self.postgres.is_running:
            await asyncio.to_thread(self.postgres.drop_database, self.database)

    async def _receiver(self, name: str, option: str, file: Path) -> int:
        """Start ``chaos.observers.{name}``, which writes to that file; return its port."""
        port_file = self.spec.directory / f"{name}.port"
        argv = [sys.executable, "-m", f"chaos.observers.{name}", option, str(file)]
        self._helper(name, [*argv, "--port-file", str(port_file)])
        give_up = time.monotonic() + READY_SECONDS
        while not port_file.exists():
            if time.monotonic() > give_up:
                log = tail(self.spec.logs / f"{name}.log")
                raise ActorFailed(f"the {name} did not start:\n{log}")
            await asyncio.sleep(0.02)
        return int(port_file.read_text(encoding="ascii"))

    async def _connect(self, receivers: dict[str, int]) -> None:
        """Start Toxiproxy and create a proxy for every edge. ``receivers``: port by name."""
        port = free_port()
        binary = str(self.toxiproxy)
        self._helper("toxiproxy", [binary, "-host", "127.0.0.1", "-port", str(port)])
        await self._listening(port)
        self.proxies = Proxies(port, self._changed)
        upstream = receivers | {"redis": self.valkey.port}
        upstream |= {"postgres": self._conditions.postgres_port}
        upstream |= {name: free_port() for name in self.scenario.topology.processes}
        forgetting = [fault for fault in self.scenario.faults if fault.fault == "silent_drop"]
        for edge in self.scenario.topology.edges:
            port = upstream[edge.partition("->")[2]]
            if any(edge in fault.candidates(self.scenario.topology) for fault in forgetting):
                self.relays[edge] = Relay(port)
                port = await self.relays[edge].open()
            self.ports[edge] = await self.proxies.create(edge, port)
        # A role's own port is that of its API or of its health server.
        self.ports |= {name: upstream[name] for name in self.scenario.topology.processes}
        homes = map(self._home, self.scenario.topology.processes)
        proxies = {self.ports[edge] for edge in self.scenario.topology.edges}
        require_direct([self.observer.url, self.redis_url, *homes], proxies)

    async def _listening(self, port: int) -> None:
        give_up = time.monotonic() + READY_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if time.monotonic() > give_up:
                    log = tail(self.spec.logs / "toxiproxy.log")
                    raise ActorFailed(f"Toxiproxy did not start:\n{log}") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    def _actor(self, name: str) -> SupervisedProcess:
        role = name.partition("-")[0]
        argv = [sys.executable, "-m"]
        clock = self.spec.directory / f"{name}.clock" if name in self._clocks_to_move() else None
        if clock is not None:
            argv += ["chaos.live.clock_skew_role", str(clock)]
        argv += ["holdfast", role]
        if role == "worker":
            for kind in self.scenario.topology.knows.get(name, EFFECTS):
                argv += ["--app", f"chaos.tasks.{kind}"]
        environment = self.environment() | self._settings_of(name)
        ready_url = f"{self._home(name)}/readyz"
        self.actors[name] = self._process(name, argv, environment, ready_url, clock)
        return self.actors[name]

    def _clocks_to_move(self) -> set[str]:
        topology = self.scenario.topology
        skews = [fault for fault in self.scenario.faults if fault.fault == "skew"]
        return {target for fault in skews for target in fault.candidates(topology)}

    def _settings_of(self, name: str) -> dict[str, str]:
        """Return a role's variables, which point at its own proxies."""
        ports = self.ports
        declared = otlp.trace_settings(self.scenario.topology.settings)
        given = {key: _as_variable(value) for key, value in declared.items()} | {
            "label": name,
            "database_url": self._postgres_url(name),
            "redis_url": self._conditions.redis_url(ports[f"{name}->redis"]),
            "api_port" if name.startswith("api-") else "health_port": str(ports[name]),
            "otlp_endpoint": f"http://127.0.0.1:{ports[f'{name}->collector']}",
            "log_format": "json",
            "known_queues": json.dumps(self.scenario.unread_queues),
            "api_keys": json.dumps(self.scenario.workload.api_keys),
        }
        variables = {f"HOLDFAST_{key.upper()}": value for key, value in given.items()}
        if name.startswith("worker-"):
            variables["HOLDFAST_QUEUES"] = json.dumps(self.scenario.queues_of(name))
            variables[SINK_URL] = f"http://127.0.0.1:{ports[f'{name}->sink']}"
        return variables

    def _postgres_url(self, role: str) -> str:
        return self.postgres.url(self.database, port=self.ports[f"{role}->postgres"])

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
    ) -> SupervisedProcess:
        log = self.spec.logs / f"{name}.log"
        # Python imports from the working directory first, so it must not contain our packages.
        command = Command(argv, environment, self.spec.directory, log, ready_url, clock)
        return SupervisedProcess(name, command, self.reaper, self._exited)

    def environment(self) -> dict[str, str]:
        """Return only the variables that finding programs and sources needs."""
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": path, "PYTHONPATH": import_path(self.spec.sources), "PYTHONUNBUFFERED": "1"}

    def _exited(self, end: ProcessEnd) -> None:
        if end.actor in self.actors:
            self.exits.append(end)
        self.spec.journal({"journal": "exit"} | asdict(end))

    def _changed(self, change: Change) -> None:
        self.spec.journal({"journal": "proxy"} | asdict(change))


def _as_variable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
