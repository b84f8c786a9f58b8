"""A whole Holdfast for one measurement: ``python -m holdfast up`` in a directory of its own.

Nothing of ``system`` is imported: what it says on its output is all that is known of it. The
schedulers are children of this process, so that a run can hold them back: tasks then pile up
with everything else warm, and the drain begins when a scheduler starts. Further workers may be.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from loadtest.processes import LoadtestError, end, free_port, spawn, until_up
from loadtest.roles import PRODUCT_MODULE

Role = Literal["api", "scheduler", "worker"]

START_SECONDS = 120.0
_PLACES = {
    "api": re.compile(r"(http://\S+)/docs\b"),
    "postgres": re.compile(r"(postgresql://\S+)"),
    "valkey": re.compile(r"(rediss?://\S+)"),
}


def find_places(line: str, found: dict[str, str]) -> None:
    """Record the URLs in a line of output: api, postgres, valkey."""
    for place, pattern in _PLACES.items():
        if place not in found and (match := pattern.search(line)):
            found[place] = match.group(1)


class LoadtestStack:
    """Servers, API, workers and schedulers, as an async context manager; ``start`` adds more."""

    def __init__(
        self,
        *,
        workers: int,
        schedulers: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``environment``: further HOLDFAST_* variables for all of it."""
        self._environment = dict(environment or {})
        self._workers = workers
        self._schedulers = schedulers
        self._directory: Path | None = None
        self._up: Process | None = None
        self._started: dict[Role, list[Process]] = {"api": [], "scheduler": [], "worker": []}
        self._output: deque[str] = deque(maxlen=40)
        self._reader: asyncio.Task[None] | None = None
        self._places: dict[str, str] = {}
        self._ready = asyncio.Event()

    @property
    def api_url(self) -> str:
        """Base URL of the API."""
        return self._places["api"]

    @property
    def database_url(self) -> str:
        """URL of Holdfast's database."""
        return self._places["postgres"]

    @property
    def redis_url(self) -> str:
        """URL of its Valkey."""
        return self._places["valkey"]

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="holdfast-load-"))
        # Under root, the servers run as another user, who needs access to the data directory.
        self._directory.chmod(0o755)
        try:
            await self._start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._leave()

    async def start(self, role: Role, count: int, added: Mapping[str, str] | None = None) -> None:
        """Start processes of a role: schedulers make due tasks flow to the workers.

        ``added``: further HOLDFAST_* variables for these alone.
        """
        for number in range(1, count + 1):
            label = {"HOLDFAST_LABEL": f"loadtest-{role}-{number}"}
            await self._spawn(role, {**label, **(added or {})})

    async def start_api(self, added: Mapping[str, str] | None = None) -> str:
        """Start one more API process; its base URL, once it is ready. ``added``: as for ``start``.

        Raises:
            LoadtestError: it was not within two minutes.
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
        await asyncio.gather(*(end(process) for process in stopping))

    async def restart(self) -> None:
        """Restart the servers and everything that runs on them, on the same data."""
        await self._stop()
        await self._start()

    def check(self) -> None:
        """Raise LoadtestError if the stack, or a process started beside it, has died."""
        for role, processes in self._started.items():
            for process in processes:
                if process.returncode is not None:
                    raise LoadtestError(f"a {role} ended with exit code {process.returncode}")
        if self._up is None or self._up.returncode is not None:
            raise self._failed("ended in the middle of the measurement")

    async def _start(self) -> None:
        self._places.clear()
        self._ready.clear()
        arguments = [PRODUCT_MODULE, "up", "--data-dir", str(self._directory)]
        arguments += ["--workers", str(self._workers), "--schedulers", str(self._schedulers)]
        environment = {"HOLDFAST_API_PORT": str(free_port()), **self._environment}
        self._up = await spawn(arguments, environment, stdout=PIPE, stderr=STDOUT)
        self._reader = asyncio.create_task(self._read(self._up))
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            raise self._failed(f"was not up within {START_SECONDS:.0f} s") from None
        if len(self._places) < len(_PLACES):
            raise self._failed("did not come up")

    async def _read(self, process: Process) -> None:
        """Drain the pipe until the stack ends."""
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        while line := await process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            self._output.append(text)
            find_places(text, self._places)
            if len(self._places) == len(_PLACES):
                self._ready.set()
        await process.wait()
        self._ready.set()

    async def _spawn(self, role: Role, environment: Mapping[str, str]) -> None:
        places = {
            "HOLDFAST_DATABASE_URL": self.database_url,
            "HOLDFAST_REDIS_URL": self.redis_url,
        }
        process = await spawn(
            [PRODUCT_MODULE, role], {**self._environment, **places, **environment}
        )
        self._started[role].append(process)

    def _failed(self, what: str) -> LoadtestError:
        said = "\n".join(f"  {line}" for line in self._output) or "  (nothing)"
        return LoadtestError(f"`python -m holdfast up` {what}; it said:\n{said}")

    async def _stop(self) -> None:
        for role in self._started:
            await self.stop(role)
        if self._up is not None:
            await end(self._up)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _leave(self) -> None:
        await self._stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
