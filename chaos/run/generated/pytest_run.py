"""Run pytest on a tree in a process group of its own, and read what it reported."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from chaos.mutants import import_path

_STOP_SECONDS = 20.0
_NOT_COLLECTED = 5
_TIMEOUT = "Failed: Timeout"


@dataclass(frozen=True, slots=True)
class EndedTest:
    """One test. ``key``: class and name as in JUnit's XML; ``problem``: the start of its error."""

    key: str
    seconds: float
    problem: str

    @property
    def timed_out(self) -> bool:
        """Whether pytest-timeout ended it."""
        return self.problem.startswith(_TIMEOUT)


@dataclass(frozen=True, slots=True)
class PytestReport:
    """The tests in the order in which they ended; ``timed_out``: pytest itself was ended."""

    tests: tuple[EndedTest, ...]
    failed: bool
    timed_out: bool = False


async def run_pytest(
    tree: Path, arguments: Sequence[str], scratch: Path, seconds: float, **environment: str
) -> PytestReport:
    """Run the unit and server tests among ``arguments``, in ``tree``, for at most ``seconds``."""
    xml = scratch / "junit.xml"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-m", "unit or server", "-p", "no:cacheprovider"),
        *(f"--junitxml={xml}", f"--basetemp={scratch / 'pytest'}", *arguments),
        cwd=tree,
        env=os.environ | {"PYTHONPATH": import_path(tree)} | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError:
        return PytestReport(_results(xml), failed=True, timed_out=True)
    finally:
        await asyncio.shield(_end(process))
    return PytestReport(_results(xml), failed=code not in (0, _NOT_COLLECTED))


async def _end(process: asyncio.subprocess.Process) -> None:
    """End pytest in order, so that its servers end too; their reaper covers a SIGKILL."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)


def junit_key(node: str) -> str:
    """Return the key of a test by its node id, ``tests/a/test_b.py::test_c[d]``."""
    path, _, rest = node.partition("[")
    file, *names = path.split("::")
    module = file.removesuffix(".py").replace("/", ".")
    bracket = f"[{rest}" if rest else ""
    return ".".join([module, *names]) + bracket


def _results(xml: Path) -> tuple[EndedTest, ...]:
    try:
        cases = ET.parse(xml).iter("testcase")  # noqa: S314 - written by our pytest
    except (OSError, ET.ParseError):
        return ()
    return tuple(_result(case.attrib, case) for case in cases)


def _result(attributes: Mapping[str, str], case: ET.Element) -> EndedTest:
    problem = next((each for each in case if each.tag in ("failure", "error")), None)
    return EndedTest(
        ".".join(filter(None, (attributes.get("classname", ""), attributes.get("name", "")))),
        float(attributes.get("time", 0)),
        "" if problem is None else problem.get("message", "") or problem.tag,
    )
