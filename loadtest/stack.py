"""Run a complete Holdfast for one measurement: ``python -m holdfast up`` in a temporary directory.

The product is not imported; URLs are parsed from its output. Schedulers are started separately, as
children of this process: a run can store tasks while the other roles are warm, and start the drain
by starting a scheduler. Further API and worker processes can be added the same way.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from loadtest.process_stats import PRODUCT_MODULE
from loadtest.processes import LoadtestError, end, free_port, kill, spawn, until_up

Role = Literal["api", "scheduler", "worker"]

START_SECONDS = 120.0
_API = re.compile(r"(http://\S+)/docs\b")


@dataclass(frozen=True, slots=True)
class _Started:
    """A process that ``start`` started, with its HOLDFAST_* variables."""

    process: Process
    environment: Mapping[str, str]


def find_urls(line: str, data_dir: Path) -> dict[str, str]:
    """Return the URLs of a running stack once a line of its output names the API; else nothing.

    By name: ``api``, and the variables of the environment file, which the output names, too.
    """
    if (match := _API.search(line)) is None:
        return {}
    lines = (data_dir / "environment").read_text(encoding="utf-8").splitlines()
    return {"api": match.group(1), **dict(each.split("=", 1) for each in lines)}


class LoadtestStack:
    """Servers, API, workers and schedulers as an async context manager; ``start`` adds more."""

    def __init__(
        self,
        *,
        workers: int,
        schedulers: int = 0,
        environment: Mapping[str, str] | None = None,
        application: str | None = None,
    ) -> None:
        """``environment``: further HOLDFAST_* variables for all processes.

        ``application``: a module with handlers, for the workers.
        """
        self._environment = dict(environment or {})
        self._workers = workers
        self._schedulers = schedulers
        self._application = application
        self._directory: Path | None = None
        self._up: Process | None = None
        self._started: dict[Role, list[_Started]] = {"api": [], "scheduler": [], "worker": []}
        self._output: deque[str] = deque(maxlen=40)
        self._reader: asyncio.Task[None] | None = None
        self._urls: dict[str, str] = {}
        self._ready = asyncio.Event()

    @property
    def api_url(self) -> str:
        """Base URL of the API."""
        return self._urls["api"]

    @property
    def database_url(self) -> str:
        """URL of Holdfast's database."""
        return self._urls["HOLDFAST_DATABASE_URL"]

    @property
    def directory(self) -> Path:
        """The temporary directory of its files."""
        assert self._directory is not None  # noqa: S101 - read while it runs
        return self._directory

    @property
    def redis_url(self) -> str:
        """URL of Holdfast's Valkey."""
        return self._urls["HOLDFAST_REDIS_URL"]

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="holdfast-load-"))
        # Under root, the servers run as another user, who needs access to the data directory.
        self._directory.chmod(0o755)
        try:
            await self._start()
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._remove()

    async def start(self, role: Role, count: int, added: Mapping[str, str] | None = None) -> None:
        """Start ``count`` processes of a role.

        ``added``: further HOLDFAST_* variables for these processes only.
        """
        for number in range(1, count + 1):
            label = {"HOLDFAST_LABEL": f"loadtest-{role}-{number}"}
            await self._spawn(role, {**label, **(added or {})})

    async def start_api(self, added: Mapping[str, str] | None = None) -> str:
        """Start another API process, wait until it is ready, and return its base URL.

        ``added``: as for ``start``.

        Raises:
            LoadtestError: it was not ready within two minutes.
        """
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        label = {"HOLDFAST_LABEL": "loadtest-api-2", "HOLDFAST_API_PORT": str(port)}
        await self._spawn("api", {**label, **(added or {})})
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await until_up(client, "/readyz", self.check)
        return url

    async def stop(self, role: Role) -> None:
        """Stop the started processes of a role; tasks keep their state."""
        stopping, self._started[role] = self._started[role], []
        await asyncio.gather(*(end(each.process) for each in stopping))

    async def kill(self, role: Role) -> None:
        """Kill the first started process of a role and start it again, as its supervisor would."""
        killed = self._started[role].pop(0)
        await kill(killed.process)
        await self._spawn(role, killed.environment)

    async def restart(self) -> None:
        """Restart the servers and all roles on the same data."""
        await self._stop()
        await self._start()

    def check(self) -> None:
        """Raise LoadtestError if the stack or a process started by ``start`` has exited."""
        for role, started in self._started.items():
            for each in started:
                if each.process.returncode is not None:
                    raise LoadtestError(f"a {role} exited with code {each.process.returncode}")
        if self._up is None or self._up.returncode is not None:
            raise self._failed("exited during the measurement")

    async def _start(self) -> None:
        self._urls.clear()
        self._ready.clear()
        arguments = [PRODUCT_MODULE, "up", "--data-dir", str(self._directory)]
        arguments += ["--workers", str(self._workers), "--schedulers", str(self._schedulers)]
        if self._application is not None:
            arguments += ["--app", self._application]
        environment = {"HOLDFAST_API_PORT": str(free_port()), **self._environment}
        self._up = await spawn(arguments, environment, stdout=PIPE, stderr=STDOUT)
        self._reader = asyncio.create_task(self._read(self._up))
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            raise self._failed(f"was not up within {START_SECONDS:.0f} s") from None
        if not self._urls:
            raise self._failed("did not come up")

    async def _read(self, process: Process) -> None:
        """Read the output until the stack exits."""
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        while line := await process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            self._output.append(text)
            if not self._urls and self._directory is not None:
                self._urls = find_urls(text, self._directory)
                if self._urls:
                    self._ready.set()
        await process.wait()
        self._ready.set()

    async def _spawn(self, role: Role, environment: Mapping[str, str]) -> None:
        urls = {
            "HOLDFAST_DATABASE_URL": self.database_url,
            "HOLDFAST_REDIS_URL": self.redis_url,
        }
        arguments = [PRODUCT_MODULE, role]
        if role == "worker" and self._application is not None:
            arguments += ["--app", self._application]
        process = await spawn(arguments, {**self._environment, **urls, **environment})
        self._started[role].append(_Started(process, environment))

    def _failed(self, what: str) -> LoadtestError:
        output = "\n".join(f"  {line}" for line in self._output) or "  (nothing)"
        return LoadtestError(f"`python -m holdfast up` {what}; its output:\n{output}")

    async def _stop(self) -> None:
        for role in self._started:
            await self.stop(role)
        if self._up is not None:
            await end(self._up)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _remove(self) -> None:
        await self._stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
