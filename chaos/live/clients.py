"""Run the clients as one Locust process: operations go in as a file, records come out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import chaos
from chaos.history.history import read
from chaos.history.records import Op, Record
from chaos.live.actors import tail, wait_for_exit
from chaos.nemesis.process_faults import ActorFailed
from chaos.scenario.workload import CLIENTS, PlannedOperation, to_json
from holdfast.devstack.reaper import Reaper

_LOCUSTFILE = Path(chaos.__file__).parent / "clients" / "locustfile.py"
_STOP_SECONDS = 5.0


class LocustProcess:
    """The process of all clients. It sends nothing until ``begin`` sets arena second 0."""

    def __init__(self, directory: Path, log: Path, reaper: Reaper) -> None:
        self._directory = directory
        self._log = log
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None
        self.operations_file = directory / "operations.jsonl"
        self._answered = 0
        self._read_to = 0

    def start(
        self,
        operations: list[PlannedOperation],
        api_ports: Sequence[int],
        environment: Mapping[str, str],
    ) -> None:
        """Start the process; nothing is sent before ``begin``."""
        operations_file = self._directory / "planned.json"
        operations_file.write_text(json.dumps(to_json(operations)), encoding="utf-8")
        argv = [sys.executable, "-m", "locust", "--locustfile", str(_LOCUSTFILE), "--headless"]
        argv += ["--users", str(CLIENTS), "--spawn-rate", str(CLIENTS), "--only-summary"]
        apis = [f"http://127.0.0.1:{port}" for port in api_ports]
        argv += ["--host", apis[0], "--loglevel", "WARNING"]
        files = {
            "CHAOS_APIS": json.dumps(apis),
            "CHAOS_OPERATIONS": str(operations_file),
            "CHAOS_OPS": str(self.operations_file),
            "CHAOS_START": str(self._directory / "start"),
        }
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = self._reaper.spawn(
                argv,
                env=dict(environment) | files,
                cwd=self._directory,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> None:
        """Wait until the clients wait for ``begin``; raises ActorFailed."""
        process = self._started()
        while not self.operations_file.exists():
            if process.poll() is not None:
                raise ActorFailed(f"the clients ended before they began:\n{tail(self._log)}")
            await asyncio.sleep(0.02)

    def begin(self, zero: float) -> None:
        """Let the clients send; ``zero``: the Unix time of arena second 0."""
        draft = self._directory / "start.draft"
        draft.write_text(repr(zero), encoding="ascii")
        draft.rename(self._directory / "start")

    async def done(self) -> None:
        """Wait until every client has finished its share; raises ActorFailed."""
        process = self._started()
        code = await wait_for_exit(process)
        self._reaper.forget(process)
        if code != 0:
            raise ActorFailed(f"the clients ended with {code}:\n{tail(self._log)}")

    async def stop(self) -> None:
        """Stop the process if it still runs."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(wait_for_exit(process), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await wait_for_exit(process)
        self._reaper.forget(process)

    def answered(self) -> int:
        """Return how many operations have completed so far, with any outcome."""
        if self.operations_file.exists():
            with self.operations_file.open("rb") as file:
                file.seek(self._read_to)
                lines = file.read().split(b"\n")
            # The last piece is empty or a line that is still being written.
            self._read_to += sum(len(line) + 1 for line in lines[:-1])
            self._answered += sum(b'"type":"invoke"' not in line for line in lines[:-1])
        return self._answered

    def operations(self) -> list[Record]:
        """Return both halves of every operation, in the order they were recorded."""
        return [record for record in read(self.operations_file) if isinstance(record, Op)]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ActorFailed("the clients were not started")
        return self._process
