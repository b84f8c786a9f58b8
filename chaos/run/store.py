"""The run store: ``.holdfast/runs/<time>-<scenario>-<seed>[-mutant]/`` and ``<time>-suite-...``.

A run has ``history.jsonl``, ``summary.json``, ``report.html``, and ``logs/`` if they were kept; a
suite (several runs of one command) has ``summary.json``, ``junit.xml``, ``report.html``. ``latest``
links to the newest that has a report. Nothing is ever deleted here.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import orjson
from pydantic import ValidationError

from chaos.errors import ChaosError
from chaos.report import outcome as outcomes
from chaos.report import suite as suites
from chaos.report.files import HISTORY, SUMMARY
from chaos.report.outcome import Outcome
from chaos.report.suite import SuiteReport

LATEST = "latest"
_SUFFIXES = 1000


class RunNotFound(ChaosError):
    """No such run in the store; the message names the store."""


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A directory of the store. ``problem``: why its summary cannot be read (else empty).

    A run has one outcome, a suite one per run; ``suite`` is None for a run.
    """

    directory: Path
    kind: Literal["run", "suite", "damaged"]
    outcomes: tuple[Outcome, ...] = ()
    suite: SuiteReport | None = None
    problem: str = ""

    @property
    def seconds(self) -> float | None:
        """Its duration, if known."""
        if self.suite is not None:
            return self.suite.seconds
        return self.outcomes[0].seconds if self.outcomes else None


class RunStore:
    """The directories below ``root``, which is created with the first run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def new_run(self, scenario: str, seed: int, mutant: str | None = None) -> Path:
        """Create a directory for a run."""
        return self._new(scenario, str(seed), *([mutant] if mutant else []))

    def new_suite(self, seed: int, mutant: str | None = None) -> Path:
        """Create a directory for the report of several runs."""
        return self._new("suite", str(seed), *([mutant] if mutant else []))

    def point_latest(self, directory: Path) -> None:
        """Let ``latest`` link to this directory of the store, atomically."""
        fresh = self.root / f".{LATEST}.{os.getpid()}.{directory.name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(directory.name, target_is_directory=True)
        fresh.replace(self.root / LATEST)

    def find(self, name: str | None = None) -> Path:
        """Return a directory by its name in the store, or what ``latest`` links to.

        Raises:
            RunNotFound: there is none.
        """
        directory = self.root / (name or LATEST)
        if directory.is_dir():
            return directory.resolve()
        what = f"no run {name}" if name else "no latest run"
        raise RunNotFound(f"{what} in {self.root}: python -m chaos list --runs shows them")

    def entries(self) -> list[StoreEntry]:
        """Read the summaries of everything in the store, newest first."""
        if not self.root.is_dir():
            return []
        found = [
            each
            for each in self.root.iterdir()
            if each.is_dir() and not each.is_symlink() and not each.name.startswith(".")
        ]
        return [read(each) for each in sorted(found, key=lambda each: each.name, reverse=True)]

    def _new(self, *parts: str) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name = "-".join([stamp, *parts])
        for suffix in ("", *(f"-{n}" for n in range(2, _SUFFIXES))):
            directory = self.root / (name + suffix)
            with contextlib.suppress(FileExistsError):
                directory.mkdir(parents=True)
                return directory
        raise FileExistsError(f"{self.root} has {_SUFFIXES} directories {name}")


def read(directory: Path) -> StoreEntry:
    """Read the summary of a directory; ``problem`` describes one that is damaged or incomplete."""
    try:
        document = orjson.loads((directory / SUMMARY).read_bytes())
        if document.get("kind") == "suite":
            suite = suites.parse(document)
            return StoreEntry(directory, "suite", suite.runs, suite)
        return StoreEntry(directory, "run", (outcomes.parse(document["runs"][0]),))
    except FileNotFoundError:
        begun = (directory / HISTORY).exists()
        problem = f"no {SUMMARY}: it was ended early, or is still running" if begun else "empty"
    except OSError as error:
        problem = f"{SUMMARY} cannot be read: {error.strerror}"
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{SUMMARY} is damaged: {where}: {first['msg']}"
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        problem = f"{SUMMARY} is damaged: {error}"
    return StoreEntry(directory, "damaged", problem=problem)
