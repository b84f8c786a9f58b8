"""Run variants of a failing run and tell whether they violate the same invariant.

``variant_job`` runs one variant in a worker process; ``Variants`` sends them to a pool of such
processes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from chaos.checker.invariants.violation import Violation
from chaos.checker.verdict import Judgement
from chaos.history.history import History
from chaos.history.records import ArenaName
from chaos.mutants import SOURCES, find, plant
from chaos.run.artifacts import RunFailed
from chaos.run.spec import RunSpec
from chaos.scenario.scenario import Scenario
from chaos.simulation.diagnosis.diagram import mermaid
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.kernel.rng import Branch
from chaos.simulation.run import SimulationOptions, simulate
from chaos.simulation.story import Story, virtual_seconds
from chaos.simulation.suite.pool import Pool


@dataclass(frozen=True, slots=True)
class BrokenInvariant:
    """A violation, identified independently of the schedule.

    ``task``: the key of the task, ``number``: its number in the workload; None without a task.
    """

    law: str
    message: str
    task: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A fault as injected, in arena seconds; ``ended`` is None if it never ended."""

    fault_id: str
    targets: tuple[str, ...]
    at: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """An instant of a run at which futures may branch off. ``at``: virtual seconds.

    ``own``: its event belongs to the violating task, or is a fault.
    """

    at: float
    what: str
    own: bool = False


@dataclass(frozen=True, slots=True)
class VariantResult:
    """The result of one variant. ``zero``: the virtual second of arena second 0.

    On request with ``points``, up to the violation, and the ``diagram`` of the violating task.
    """

    verdict: str
    broken: tuple[BrokenInvariant, ...] = ()
    doubts: tuple[str, ...] = ()
    faults: tuple[InjectedFault, ...] = ()
    zero: float = 0.0
    points: tuple[BranchPoint, ...] = ()
    diagram: str = ""

    def breaks(self, law: str, task: str | None = None) -> bool:
        """Return whether the invariant is violated (by that task, if one is given)."""
        return any(b.law == law and (task is None or b.task == task) for b in self.broken)

    def first(self, law: str | None = None) -> BrokenInvariant | None:
        """Return the first violation (of that invariant, if one is given)."""
        return next((b for b in self.broken if law in {None, b.law}), None)


_ADAPTER: TypeAdapter[VariantResult] = TypeAdapter(VariantResult)


def variant_job(servers: SharedServers, job: dict[str, Any]) -> dict[str, Any]:
    """Run one variant in a worker process; return the document of a ``VariantResult``.

    ``job``: ``scenario`` (document), ``seed``, ``mutant``, ``apps``, ``branch`` ([second, salt] or
    None), ``explain`` (the invariant whose first violation gets points and diagram, or None).
    """
    explain = job["explain"]
    spec = RunSpec(
        ArenaName.SIMULATION,
        Scenario.model_validate(job["scenario"]),
        job["seed"],
        servers.directory / "tried",
        mutant=job["mutant"],
    )
    options = SimulationOptions(
        apps=tuple(job["apps"]),
        branch=Branch(*job["branch"]) if job["branch"] else None,
        story=explain is not None,
    )
    try:
        ran = simulate(spec, servers, options)
    except RunFailed as error:
        return {"verdict": "unknown", "doubts": [f"the harness failed: {r}" for r in error.reasons]}
    tried = _tried(ran.judgement)
    violation = next((v for v in ran.judgement.violations if v.invariant == explain), None)
    if violation is not None:
        story = Story(ran.judgement, ran.entries)
        tried["points"] = _points(story, violation, ran.virtual_seconds)
        tried["diagram"] = mermaid(ran.judgement.history, violation)
    return tried


def _tried(judgement: Judgement) -> dict[str, Any]:
    history = judgement.history
    return {
        "verdict": judgement.verdict,
        "broken": [_broken(history, violation) for violation in judgement.violations],
        "doubts": judgement.doubts,
        "zero": virtual_seconds(history.run.database_epoch),
        "faults": list(_faults(history)),
    }


def _broken(history: History, violation: Violation) -> dict[str, Any]:
    task = history.tasks.get(violation.task_id or "")
    number = (task.key or "").rpartition("-")[2] if task else ""
    return {
        "law": violation.invariant,
        "message": violation.message,
        "task": task.key if task else None,
        "number": int(number) if number.isdigit() else None,
    }


def _faults(history: History) -> Iterable[dict[str, Any]]:
    for fault_id, found in history.faults.items():
        at = {record.type: record for record in found}
        if "start" in at:
            yield {
                "fault_id": fault_id,
                "targets": at["start"].targets,
                "at": at["start"].at,
                "ended": at["end"].at if "end" in at else None,
            }


def _points(story: Story, violation: Violation, end: float) -> list[dict[str, Any]]:
    """Return the beginning and every instant up to the last evidence, each with its last event."""
    task_id = violation.task_id
    last = max((line.at for line in story.lines if line.marked), default=end)
    found: dict[float, dict[str, Any]] = {0.0: {"at": 0.0, "what": "the beginning", "own": True}}
    for line in story.lines:
        at, own = round(line.at, 6), line.common or line.task == task_id
        known = found.get(at)
        if 0.0 < at <= last and (own or known is None or not known["own"]):
            found[at] = {"at": at, "what": f"{line.who:<20} {line.what}", "own": own}
    return list(found.values())


class Variants:
    """Runs variants under one ``seed``, ``at_once`` at a time.

    ``made`` counts the started ones; ``on_answer`` is called after each.
    """

    def __init__(
        self, pool: Pool, at_once: int, seed: int, mutant: str | None, apps: Sequence[str]
    ) -> None:
        self.at_once = at_once
        self.seed = seed
        self.made = 0
        self.on_answer: Callable[[], None] = lambda: None
        self._pool = pool
        self._common = {"job": "variant", "seed": seed, "mutant": mutant, "apps": list(apps)}
        self._known: dict[bytes, VariantResult] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def up(
        cls, processes: int, seed: int, mutant: str | None, apps: Sequence[str]
    ) -> AsyncIterator[Variants]:
        """Start the worker processes, with ``mutant`` if given; stop them after the block.

        Raises:
            MutantError: the mutant does not exist or does not match the sources.
        """
        with tempfile.TemporaryDirectory(prefix="holdfast-mutant-") as tree:
            sources = plant(find(mutant), SOURCES, Path(tree)) if mutant else None
            async with Pool(processes, sources).up() as pool:
                yield cls(pool, processes, seed, mutant, apps)

    def known(self, scenario: Scenario) -> bool:
        """Return whether this scenario has been run."""
        return _name(self._variant(scenario)) in self._known

    async def of(self, scenarios: Iterable[Scenario]) -> list[VariantResult]:
        """Return the result of each scenario; results are cached.

        Raises:
            WorkerFailed: a worker process failed.
        """
        return await self._run([self._variant(scenario) for scenario in scenarios])

    async def explained(self, scenario: Scenario, law: str) -> VariantResult:
        """Run with the points and the diagram of the first violation of ``law``."""
        return (await self._run([self._variant(scenario, explain=law)]))[0]

    async def futures(self, scenario: Scenario, branches: Iterable[Branch]) -> list[VariantResult]:
        """Run the scenario with other random draws from the second of each branch on."""
        return await self._run([self._variant(scenario, branch) for branch in branches])

    async def _run(self, variants: Sequence[Mapping[str, Any]]) -> list[VariantResult]:
        new = {_name(each): each for each in variants if _name(each) not in self._known}
        self.made += len(new)
        async for job, answer in self._pool.answers(list(new.values())):
            self._known[_name(job)] = _ADAPTER.validate_python(answer)
            self.on_answer()
        return [self._known[_name(each)] for each in variants]

    def _variant(
        self, scenario: Scenario, branch: Branch | None = None, explain: str | None = None
    ) -> dict[str, Any]:
        return self._common | {
            "scenario": scenario.document,
            "branch": list(branch) if branch else None,
            "explain": explain,
        }


def _name(variant: Mapping[str, Any]) -> bytes:
    return orjson.dumps(variant, option=orjson.OPT_SORT_KEYS)
