"""Sample the Python functions of a running process with py-spy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from loadtest.processes import LoadtestError, end

RATE = 100
ATTACH_SECONDS = 20.0
STOP_SECONDS = 30.0
_STARTED = b"Sampling process"
_FRAME = re.compile(r"(?P<name>.+?) \((?P<file>.+?)(?::\d+)?\)$")


@dataclass(frozen=True, slots=True)
class Function:
    """``own``: share of the samples in the function; ``total``: in it or its callees."""

    name: str
    own: float
    total: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """Samples of one process by function; ``samples`` excludes idle ones."""

    role: str
    samples: int
    functions: list[Function]


class PySpySampler:
    """Samples one process until ``stop``; writes the stacks to ``file`` in folded form."""

    def __init__(self, role: str, pid: int, file: Path) -> None:
        self.role = role
        self._pid = pid
        self._file = file
        self._process: Process | None = None
        self._output = b""

    async def start(self) -> None:
        """Start py-spy and wait until it has attached.

        Raises:
            LoadtestError: py-spy cannot attach, or lacks the permission.
        """
        program = Path(sys.executable).with_name("py-spy")
        options = ["--pid", str(self._pid), "--format", "raw", "--output", str(self._file)]
        options += ["--rate", str(RATE), "--duration", "unlimited"]
        self._process = await asyncio.create_subprocess_exec(
            *(str(program), "record", *options),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                while _STARTED not in self._output:
                    chunk = await self._process.stdout.read(1 << 12)
                    if not chunk:
                        raise LoadtestError(self._attach_error())
                    self._output += chunk
        except TimeoutError:
            raise LoadtestError(self._attach_error()) from None

    async def stop(self) -> Sampled:
        """Stop sampling and return the result."""
        assert self._process is not None  # noqa: S101 - started before
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.communicate()
        except TimeoutError:
            raise LoadtestError(f"py-spy did not exit; its output: {self._output!r}") from None
        text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
        return folded(self.role, text)

    async def abandon(self) -> None:
        """Stop it if it is still running."""
        if self._process is not None and self._process.returncode is None:
            await end(self._process)

    def _attach_error(self) -> str:
        output = self._output.decode(errors="replace").strip()
        return (
            f"py-spy cannot attach to the {self.role} (process {self._pid}): {output}\n"
            "If ptrace is restricted to root, run as root; --no-python skips the sampling"
        )


def folded(role: str, text: str) -> Sampled:
    """Parse folded stacks: ``outer;inner;innermost count`` on each line."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        samples += int(count)
        own[frames[-1]] += int(count)
        total.update({frame: int(count) for frame in set(frames)})
    functions = [
        Function(name, own[name] / samples, count / samples) for name, count in total.items()
    ]
    functions.sort(key=lambda each: (-each.own, -each.total, each.name))
    return Sampled(role, samples, functions)


def _function(frame: str) -> str:
    """Return ``name (file)`` without the line, the path relative to its package."""
    match = _FRAME.match(frame)
    if match is None:
        return frame or "(outside of Python)"
    file = re.sub(r"^.*/(site-packages|python3\.\d+)/", "", match["file"])
    cwd = f"{Path.cwd()}/"
    return f"{match['name']} ({file.removeprefix(cwd)})"
