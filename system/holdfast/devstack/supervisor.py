"""``holdfast up``: run the whole system on one machine.

Postgres, Valkey, optionally Jaeger, one API, schedulers, workers and a mail catcher run as child
processes. A child that exits is restarted; if the supervisor dies, its children are ended. Data is
kept in a directory.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from holdfast.devstack import up_environment
from holdfast.devstack.host import (
    HOST,
    EmbeddedError,
    PortClaim,
    claim_port,
    free_port,
    reachable,
)
from holdfast.devstack.jaeger import EmbeddedJaeger
from holdfast.devstack.process import POLL_SECONDS, RoleProcess, SupervisedProcess, SupervisedServer
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres, EmbeddedValkey
from holdfast.settings import Settings, without_passwords

DATABASE = "holdfast"
API_PORT = 8000
JAEGER_PORT = 16686
OTLP_PORT = 4318
READY_SECONDS = 60.0
LOCK_SECONDS = 15.0
STOP_SECONDS = 5.0
DEATHS_BEFORE_READY_MAX = 3
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
EXAMPLE = (
    '{"name": "send_email", "payload": {"to": "user@example.com"}, "run_at": "2026-01-09T10:00:00"}'
)


@dataclass(frozen=True)
class UpOptions:
    """Options of ``holdfast up``."""

    data_dir: Path = Path(".holdfast")
    fresh: bool = False
    """Delete the data of earlier runs first."""
    modules: Sequence[str] = ()
    """Modules with @task functions, for the workers."""
    schedulers: int = 2
    workers: int = 2
    trace: bool = False
    """Also run Jaeger, and trace every task."""


async def run_up(options: UpOptions, settings: Settings) -> int:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; a second signal kills it.

    Returns the exit code: 0 after a clean stop.

    Raises:
        EmbeddedError: it did not start, or the data directory is in use.
    """
    data_dir = options.data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / ".gitignore").write_text("*\n")
    terminal = Terminal()
    with (data_dir / "lock").open("a+b") as lock:
        await _take(lock, data_dir)
        # The helper holds the lock too, so that no other stack starts before it has cleaned up.
        with Reaper(hold=lock) as reaper:
            return await Supervisor(options, settings, data_dir, reaper, terminal).run()


async def _take(lock: IO[bytes], data_dir: Path) -> None:
    deadline = asyncio.get_running_loop().time() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                lock.seek(0)
                raise EmbeddedError(
                    f"another `holdfast up` (process {lock.read().decode()}) uses {data_dir}: "
                    "stop it, or choose another directory with --data-dir"
                ) from None
            await asyncio.sleep(POLL_SECONDS)
        else:
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
            lock.flush()
            return


class Terminal:
    """Prints lines of many processes to one terminal, each prefixed with its source."""

    def __init__(self) -> None:
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._colours: dict[str, int] = {"holdfast": 1}
        self.closed = asyncio.Event()

    def say(self, source: str, text: str) -> None:
        """Print one or more lines of a source."""
        colour = self._colours.setdefault(source, COLOURS[len(self._colours) % len(COLOURS)])
        prefix = f"{source:<11} |"
        if self._coloured:
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        try:
            print("\n".join(f"{prefix} {line}" for line in text.split("\n")), flush=True)
        except BrokenPipeError:
            self.closed.set()


class Supervisor:
    """Starts, supervises and stops the processes of one stack."""

    def __init__(
        self,
        options: UpOptions,
        settings: Settings,
        data_dir: Path,
        reaper: Reaper,
        terminal: Terminal,
    ) -> None:
        self._options = options
        self._settings = settings
        self._reaper = reaper
        self._data_dir = data_dir
        self._say = terminal.say
        self._stopping = terminal.closed  # stop if the terminal goes away
        self._killed = False
        self._servers_dir = self._servers_directory(data_dir)
        self._claims: list[PortClaim] = []
        self._api_port = self._port("API", settings.api_port)
        self._smtp_port = self._port("mail catcher's SMTP", settings.smtp_port)
        self._mail_page_port = self._port("mail catcher's", 8025)
        self._postgres = EmbeddedPostgres(self._servers_dir / "postgres", reaper=reaper)
        self._valkey = EmbeddedValkey(self._servers_dir / "valkey", appendonly=True, reaper=reaper)
        self._jaeger = self._make_jaeger() if options.trace else None
        servers = [self._postgres, self._valkey, *([self._jaeger] if self._jaeger else [])]
        self._servers = [SupervisedServer(server, self._say) for server in servers]
        self._children: list[RoleProcess] = []
        self._keepers: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Start all processes, keep them running, and stop them."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self._start()
            await self._stopping.wait()
            await asyncio.gather(*self._keepers)
        finally:
            self._stopping.set()
            await asyncio.gather(*self._keepers, return_exceptions=True)
            await self._stop()
            for number in signals:
                loop.remove_signal_handler(number)
        return 1 if self._killed else 0

    async def _start(self) -> None:
        if self._options.fresh:
            for name in ("postgres", "valkey"):
                shutil.rmtree(self._servers_dir / name, ignore_errors=True)
        named = ", ".join(server.name.capitalize() for server in self._servers)
        self._say("holdfast", f"starting {named}; data and logs in {self._servers_dir}")
        for server in self._servers:
            await server.start()
        await asyncio.to_thread(self._postgres.create_database, DATABASE, exists_ok=True)
        await self._migrate()
        self._children = self._make_children()
        for child in self._children:
            if not self._stopping.is_set():
                await child.start()
        self._keep(self._keep_reaper())
        for part in self._processes():
            self._keep(part.keep(self._stopping))
        await self._wait_until_ready()
        if not self._stopping.is_set():
            self._say("holdfast", self._welcome())

    async def _migrate(self) -> None:
        if self._stopping.is_set():
            return
        migration = self._child("migrate", ["migrate"])
        await migration.start()
        if code := await migration.ended():
            raise EmbeddedError(
                f"the database migration failed (exit code {code}), see above; --fresh deletes all "
                "data and starts over"
            )

    async def _wait_until_ready(self) -> None:
        waiting = list(self._children)
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while waiting and not self._stopping.is_set():
                waiting = [child for child in waiting if not await child.is_ready(client)]
                late = asyncio.get_running_loop().time() > deadline
                hopeless = any(child.deaths >= DEATHS_BEFORE_READY_MAX for child in waiting)
                if waiting and (late or hopeless):
                    names = ", ".join(child.name for child in waiting)
                    raise EmbeddedError(f"not ready: {names}; the lines above have the reason")
                await asyncio.sleep(POLL_SECONDS)

    def _keep(self, keeper: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(keeper)
        task.add_done_callback(lambda _: self._stopping.set())  # a failure is a bug: stop
        self._keepers.append(task)

    async def _keep_reaper(self) -> None:
        while not self._stopping.is_set():
            self._reaper.ensure_alive()
            await asyncio.sleep(POLL_SECONDS)

    def _on_signal(self) -> None:
        if not self._stopping.is_set():
            self._say("holdfast", "stopping; repeat to kill")
            self._stopping.set()
        else:
            self._killed = True
            for part in self._processes():
                part.kill()

    async def _stop(self) -> None:
        """Stop processes that accept work first, and servers last."""
        grace = STOP_SECONDS + self._shutdown_grace_seconds()
        for prefix in ("api", "scheduler", "worker", "mail"):
            parts = [child for child in self._children if child.name.startswith(prefix)]
            await asyncio.gather(*(part.stop(grace) for part in parts))
        await asyncio.gather(*(server.stop(STOP_SECONDS) for server in self._servers))
        for claim in self._claims:
            claim.release()
        self._say("holdfast", "stopped")

    def _processes(self) -> Iterable[SupervisedProcess]:
        return [*self._servers, *self._children]

    def _make_children(self) -> list[RoleProcess]:
        modules = [word for module in self._options.modules for word in ("--app", module)]
        children = [
            self._child("mail", ["mailcatcher"], self._mail_page_port),
            self._child("api", ["api"], self._api_port),
        ]
        children += [
            self._child(f"scheduler-{number}", ["scheduler"], free_port())
            for number in range(1, self._options.schedulers + 1)
        ]
        children += [
            self._child(f"worker-{number}", ["worker", *modules], free_port())
            for number in range(1, self._options.workers + 1)
        ]
        return children

    def _child(self, name: str, arguments: Sequence[str], port: int = 0) -> RoleProcess:
        environment = {
            **self._servers_environment(),
            "HOLDFAST_API_PORT": str(self._api_port),
            "HOLDFAST_SMTP_HOST": HOST,
            "HOLDFAST_SMTP_PORT": str(self._smtp_port),
            "HOLDFAST_HEALTH_HOST": HOST,
            "HOLDFAST_HEALTH_PORT": str(port),
            "HOLDFAST_LABEL": name,
            "HOLDFAST_LOG_FORMAT": os.environ.get("HOLDFAST_LOG_FORMAT", "text"),
            "HOLDFAST_SHUTDOWN_GRACE_SECONDS": str(self._shutdown_grace_seconds()),
            "PYTHONUNBUFFERED": "1",
        }
        if self._jaeger is not None:
            environment["HOLDFAST_OTLP_ENDPOINT"] = self._jaeger.otlp_url
            environment["HOLDFAST_TRACE_RATIO"] = "1"
        return RoleProcess(
            name,
            arguments,
            environment,
            reaper=self._reaper,
            say=self._say,
            ready_url=f"http://{HOST}:{port}/readyz",
        )

    def _servers_environment(self) -> dict[str, str]:
        return {
            "HOLDFAST_DATABASE_URL": self._postgres.url(DATABASE),
            "HOLDFAST_REDIS_URL": self._valkey.url(),
        }

    def _shutdown_grace_seconds(self) -> float:
        """Return the configured grace, or else a short one: Ctrl-C should not take long."""
        if "shutdown_grace_seconds" in self._settings.model_fields_set:
            return self._settings.shutdown_grace_seconds
        return STOP_SECONDS

    def _traces(self) -> list[str]:
        if self._jaeger is None:
            return []
        lines = [f"  Jaeger                 {self._jaeger.url}"]
        command = "holdfast trace TASK_ID"
        if self._jaeger.port != JAEGER_PORT:
            command = f"HOLDFAST_JAEGER_URL={self._jaeger.url} {command}"
        if self._api_port != API_PORT:
            command += f" --api http://{HOST}:{self._api_port}"
        return [*lines, f"  the trace of a task    {command}"]

    def _port(self, whose: str, preferred: int) -> int:
        claim = claim_port(preferred)
        self._claims.append(claim)
        if claim.port != preferred:
            self._say("holdfast", f"port {preferred} is in use: the {whose} port is {claim.port}")
        return claim.port

    def _make_jaeger(self) -> EmbeddedJaeger:
        return EmbeddedJaeger(
            self._servers_dir / "jaeger",
            self._port("Jaeger's", JAEGER_PORT),
            otlp_port=self._port("OTLP", OTLP_PORT),
            reaper=self._reaper,
        )

    def _servers_directory(self, data_dir: Path) -> Path:
        if reachable(data_dir):
            return data_dir
        # If run as root, servers run as the user nobody, which must be able to reach the data.
        place = Path("/var/lib/holdfast") / hashlib.sha256(bytes(data_dir)).hexdigest()[:16]
        place.mkdir(parents=True, exist_ok=True)
        self._say("holdfast", f"the servers' user cannot access {data_dir}: using {place}")
        return place

    def _welcome(self) -> str:
        environment = up_environment.write(self._data_dir, self._servers_environment())
        api = f"http://{HOST}:{self._api_port}"
        curl = f"curl -s {api}/tasks/ -H 'Content-Type: application/json'"
        if self._settings.api_keys:
            curl += " -H 'Authorization: Bearer <one of HOLDFAST_API_KEYS>'"
        return "\n".join(
            [
                "",
                "Holdfast is up.",
                f"  interactive API docs   {api}/docs",
                f"  mail caught            http://{HOST}:{self._mail_page_port}/",
                f"  Postgres               {without_passwords(self._postgres.url(DATABASE))}",
                f"  Valkey                 {without_passwords(self._valkey.url())}",
                f"  with their passwords   set -a; . {environment}",
                *self._traces(),
                "Try it:",
                f"  {curl} -d '{EXAMPLE}'",
                "Ctrl-C stops it; data is kept (--fresh starts over).",
                "",
            ]
        )
