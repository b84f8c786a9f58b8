"""Trying variants of one failing run: does the same law break again?

``variant_job`` is what a simulating process does with one variant; ``Variants`` sends them to
a pool of such processes.
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
    """A violation by labels that survive other schedules: ``task`` is a key, ``number`` its
    number in the workload; None: of no single task.
    """

    law: str
    message: str
    task: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A strike as it took hold, in arena seconds. ``ended`` None: it did not end."""

    fault_id: str
    targets: tuple[str, ...]
    at: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """An instant of a run, after which everything may go otherwise. ``at``: virtual seconds.

    ``own``: something of the task that is looked at, or a fault.
    """

    at: float
    what: str
    own: bool = False


@dataclass(frozen=True, slots=True)
class VariantResult:
    """What became of one variant. If asked, ``points`` up to the violation, and the ``diagram`` of
    the task that broke the law.

    ``zero``: the virtual second of arena second 0.
    """

    verdict: str
    broken: tuple[BrokenInvariant, ...] = ()
    doubts: tuple[str, ...] = ()
    strikes: tuple[InjectedFault, ...] = ()
    zero: float = 0.0
    points: tuple[BranchPoint, ...] = ()
    diagram: str = ""

    def breaks(self, law: str, task: str | None = None) -> bool:
        """Whether this law is broken (by this task, if one is named)."""
        return any(b.law == law and (task is None or b.task == task) for b in self.broken)

    def first(self, law: str | None = None) -> BrokenInvariant | None:
        """The first violation (of this law)."""
        return next((b for b in self.broken if law in {None, b.law}), None)


_ADAPTER: TypeAdapter[VariantResult] = TypeAdapter(VariantResult)


def variant_job(foundation: SharedServers, job: dict[str, Any]) -> dict[str, Any]:
    """One variant. ``scenario`` (document), ``seed``, ``mutant``, ``apps``; ``branch`` [second,
    salt]; ``tell``: the law whose first violation is to be told (None: none). A ``VariantResult``.
    """
    tell = job["tell"]
    spec = RunSpec(
        ArenaName.SIMULATION,
        Scenario.model_validate(job["scenario"]),
        job["seed"],
        foundation.directory / "tried",
        mutant=job["mutant"],
    )
    options = SimulationOptions(
        apps=tuple(job["apps"]),
        branch=Branch(*job["branch"]) if job["branch"] else None,
        story=tell is not None,
    )
    try:
        ran = simulate(spec, foundation, options)
    except RunFailed as error:
        return {"verdict": "unknown", "doubts": [f"the harness failed: {r}" for r in error.reasons]}
    tried = _tried(ran.judgement)
    told = next((v for v in ran.judgement.violations if v.invariant == tell), None)
    if told is not None:
        story = Story(ran.judgement, ran.entries)
        tried["points"] = _points(story, told, ran.virtual_seconds)
        tried["diagram"] = mermaid(ran.judgement.history, told)
    return tried


def _tried(judgement: Judgement) -> dict[str, Any]:
    history = judgement.history
    return {
        "verdict": judgement.verdict,
        "broken": [_broken(history, violation) for violation in judgement.violations],
        "doubts": judgement.doubts,
        "zero": virtual_seconds(history.run.database_epoch),
        "strikes": list(_strikes(history)),
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


def _strikes(history: History) -> Iterable[dict[str, Any]]:
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
    """The beginning, and every instant up to the last evidence, under its last event."""
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
    """Variants of the run of one ``seed``, ``at_once`` at a time. ``made`` counts those begun.

    ``on_answer`` is called after each of them.
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
        """With simulating processes, mutated if asked for; inside the block.

        Raises:
            MutantError: there is no such mutant, or it does not fit.
        """
        with tempfile.TemporaryDirectory(prefix="holdfast-mutant-") as tree:
            sources = plant(find(mutant), SOURCES, Path(tree)) if mutant else None
            async with Pool(processes, sources).up() as pool:
                yield cls(pool, processes, seed, mutant, apps)

    def known(self, scenario: Scenario) -> bool:
        """Whether this one was tried already."""
        return _name(self._variant(scenario)) in self._known

    async def of(self, scenarios: Iterable[Scenario]) -> list[VariantResult]:
        """Each tried once (what was tried before is remembered).

        Raises:
            WorkerFailed: a simulating process broke.
        """
        return await self._run([self._variant(scenario) for scenario in scenarios])

    async def told(self, scenario: Scenario, law: str) -> VariantResult:
        """With the points and the diagram of the first violation of ``law``."""
        return (await self._run([self._variant(scenario, tell=law)]))[0]

    async def futures(self, scenario: Scenario, branches: Iterable[Branch]) -> list[VariantResult]:
        """The same run with other chance from some second on."""
        return await self._run([self._variant(scenario, branch) for branch in branches])

    async def _run(self, variants: Sequence[Mapping[str, Any]]) -> list[VariantResult]:
        new = {_name(each): each for each in variants if _name(each) not in self._known}
        self.made += len(new)
        async for job, answer in self._pool.answers(list(new.values())):
            self._known[_name(job)] = _ADAPTER.validate_python(answer)
            self.on_answer()
        return [self._known[_name(each)] for each in variants]

    def _variant(
        self, scenario: Scenario, branch: Branch | None = None, tell: str | None = None
    ) -> dict[str, Any]:
        return self._common | {
            "scenario": scenario.document,
            "branch": list(branch) if branch else None,
            "tell": tell,
        }


def _name(variant: Mapping[str, Any]) -> bytes:
    return orjson.dumps(variant, option=orjson.OPT_SORT_KEYS)
