"""The `holdfast` command with variables of its own, in this process or as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from typer.testing import CliRunner
from waiting import wait_until

from chaos.mutants import import_path
from holdfast.cli import app

ROOT = Path(__file__).parents[2]


@dataclass
class Command:
    """Runs ``python -m holdfast`` with these variables and no other HOLDFAST_* ones."""

    variables: dict[str, str]
    directory: Path
    logs: list[Path] = field(default_factory=list)

    def environment(self, changes: dict[str, str]) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        return {**clean, "PYTHONPATH": import_path(ROOT), **self.variables, **changes}

    def run(self, *arguments: str, **changes: str) -> tuple[int, str, str]:
        """Run a command that ends by itself, in this process; return exit code, stdout, stderr."""
        result = CliRunner().invoke(app, list(arguments), env={**self.variables, **changes})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    @contextmanager
    def running(self, *arguments: str, **changes: str) -> Iterator[Running]:
        """Run a role during the block; kill it at the end if it is still running."""
        log = self.directory / f"{arguments[0]}-{len(self.logs)}.log"
        self.logs.append(log)
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "holdfast", *arguments],
                cwd=self.directory,
                env=self.environment(changes),
                stdout=stream,
                stderr=stream,
            )
        try:
            yield Running(process, log)
        finally:
            process.kill()
            process.wait()


@dataclass
class Running:
    """The process of a role and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def url(self) -> str:
        """Return the URL of its health port, read from its log."""
        found: list[str] = []

        def logged() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            found.extend(re.findall(r'"url": ?"(http://[^"/]+)', self.log.read_text()))
            return bool(found)

        wait_until(logged)
        return found[0]

    def until_ready(self) -> str:
        url = self.url()
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        return url

    def terminate(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def events(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line)["event_name"] for line in lines if line.startswith("{")]
