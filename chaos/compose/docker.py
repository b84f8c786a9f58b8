"""Run the docker command: one compose project, its containers and their events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.errors import ChaosError

# Covers a loaded machine and the grace of a stopped container.
_COMMAND_SECONDS = 120.0
# Until all roles are healthy, including the initialisation of the databases.
UP_SECONDS = 300
_OLDEST_COMPOSE = (2, 20)


class DockerError(ChaosError):
    """The docker command is missing or failed; the message ends with its output."""


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """An event of the engine: ``action`` (start, die, pause, unpause, oom, ...) of a service's
    container. ``code``: with which it ended. ``at``: Unix time.
    """

    service: str
    action: str
    container: str
    at: float
    code: int | None = None


def require_docker() -> None:
    """Raise DockerError with an explanation if the engine or the compose plugin is missing."""
    if shutil.which("docker") is None:
        raise DockerError(
            "the compose arena needs Docker, and there is no docker command on PATH: "
            "install it, or use --arena live, which needs none"
        )
    engine = command(["docker", "version", "--format", "{{.Server.Version}}"], check=False)
    if engine.returncode != 0:
        raise DockerError(f"the Docker engine does not answer: {_output_of(engine)}")
    plugin = command(["docker", "compose", "version", "--short"], check=False)
    if plugin.returncode != 0:
        raise DockerError(f"docker has no compose plugin (version 2): {_output_of(plugin)}")
    version = plugin.stdout.strip().lstrip("v").split("-")[0]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) == 2 and numbers < _OLDEST_COMPOSE:
        raise DockerError(f"docker compose is {version}, the arena needs 2.20 or newer")


def command(
    argv: Sequence[str],
    *,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = _COMMAND_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run a docker command; with ``check`` raises DockerError if it fails."""
    try:
        done = subprocess.run(
            argv,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_seconds,
            start_new_session=True,  # Ctrl-C reaches only the harness, which stops all in order
        )
    except subprocess.TimeoutExpired as error:
        shown = " ".join(argv[:8])
        raise DockerError(f"{shown} ... did not end within {timeout_seconds:.0f} s") from error
    if check and done.returncode != 0:
        raise DockerError(f"{' '.join(argv)} failed ({done.returncode}):\n{_output_of(done)}")
    return done


async def long_command(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float,
) -> None:
    """Run a long docker command, which ends when the caller is cancelled."""
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=os.environ | (environment or {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                code = await process.wait()
        except TimeoutError:
            shown = " ".join(argv[:8])
            raise DockerError(f"{shown} ... did not end within {timeout_seconds:.0f} s") from None
        finally:
            if process.returncode is None:
                process.terminate()
                await asyncio.shield(process.wait())
        output.seek(0)
        if code != 0:
            text = output.read().decode("utf-8", errors="replace")
            raise DockerError(f"{' '.join(argv)} failed ({code}):\n{_last_lines(text)}")


def _output_of(done: subprocess.CompletedProcess[str]) -> str:
    return _last_lines(done.stdout + done.stderr)


def _last_lines(text: str) -> str:
    """Return the last lines, which say what failed."""
    lines = text.strip().splitlines()
    return "\n".join(lines[-15:]) or "(no output)"


class Project:
    """One compose project. ``files``: the compose file and what overrides it; ``environment``: the
    variables it is filled with, in place of those of a .env file.
    """

    def __init__(
        self, name: str, directory: Path, files: Sequence[Path], environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._environment = dict(environment)
        self._argv = ["docker", "compose", "--project-name", name]
        self._argv += ["--project-directory", str(directory), "--env-file", os.devnull]
        for file in files:
            self._argv += ["--file", str(file)]

    async def up(self, services: Sequence[str], *, wait: bool) -> None:
        """Start services after their dependencies; with ``wait`` return when all are healthy.
        Raises DockerError.
        """
        flags = ["up", "--detach", "--no-build"]
        if wait:
            flags += ["--wait", "--wait-timeout", str(UP_SECONDS)]
        await long_command(
            [*self._argv, "--progress", "plain", *flags, *services],
            environment=self._environment,
            timeout_seconds=UP_SECONDS + 60,
        )

    async def down(self) -> None:
        """Remove its containers, networks and volumes. Raises DockerError."""
        flags = ["down", "--volumes", "--remove-orphans", "--timeout", "0"]
        await asyncio.to_thread(
            command,
            [*self._argv, "--profile", "*", *flags],
            environment=self._environment,
        )

    async def save_log(self, file: Path) -> None:
        """Save the output of all containers, each line with the name of its container."""
        done = await asyncio.to_thread(
            command,
            [*self._argv, "--profile", "*", "logs", "--no-color"],
            check=False,
            environment=self._environment,
        )
        file.write_text(done.stdout + done.stderr, encoding="utf-8")

    async def container(self, service: str) -> str:
        """Return the id of the only container of a service, in any state."""
        found = await asyncio.to_thread(
            command,
            [*self._argv, "ps", "--all", "--quiet", service],
            environment=self._environment,
        )
        ids = found.stdout.split()
        if len(ids) != 1:
            raise DockerError(f"{self.name} has {len(ids)} containers of {service}, not one")
        return ids[0]

    @contextlib.asynccontextmanager
    async def watched(self, see: Callable[[ContainerEvent], None]) -> AsyncIterator[None]:
        """Pass the events of the containers to ``see`` inside the block."""
        argv = ["docker", "events", "--format", "{{json .}}", "--filter", "type=container"]
        argv += ["--filter", f"label=com.docker.compose.project={self.name}"]
        argv += ["--since", f"{time.time():.3f}"]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            limit=1 << 20,
        )
        reading = asyncio.create_task(_read(process, see), name="docker events")
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.gather(reading, return_exceptions=True)
            await process.wait()


async def _read(process: asyncio.subprocess.Process, see: Callable[[ContainerEvent], None]) -> None:
    assert process.stdout is not None  # noqa: S101  it was asked for
    async for line in process.stdout:
        event = json.loads(line)
        attributes = event["Actor"]["Attributes"]
        code = attributes.get("exitCode")
        see(
            ContainerEvent(
                service=attributes.get("com.docker.compose.service", ""),
                action=event["Action"].partition(":")[0],
                container=event["Actor"]["ID"],
                at=event["timeNano"] / 1e9,
                code=None if code is None else exit_code(int(code)),
            )
        )


def exit_code(code: int) -> int:
    """Convert an exit code: Docker reports a signal n as 128 + n, a Python process as -n."""
    return 128 - code if 128 < code < 160 else code


async def engine(*argv: str) -> str:
    """Run ``docker ARGV`` and return its output; raises DockerError."""
    return (await asyncio.to_thread(command, ["docker", *argv])).stdout


async def save_log(container: str, file: Path) -> None:
    """Save the output of a container: both streams, through all its restarts."""
    done = await asyncio.to_thread(command, ["docker", "logs", container], check=False)
    file.write_text(done.stdout + done.stderr, encoding="utf-8")


async def tail(container: str, lines: int = 15) -> str:
    """Return the last lines of a container's output."""
    argv = ["docker", "logs", "--tail", str(lines), container]
    done = await asyncio.to_thread(command, argv, check=False)
    return (done.stdout + done.stderr).strip() or "(empty)"
