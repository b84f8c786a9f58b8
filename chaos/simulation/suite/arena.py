"""The arena in virtual time: runs are simulated in worker processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chaos.report import outcome as outcomes
from chaos.run.artifacts import RunFailed
from chaos.run.spec import RunResult, RunSpec
from chaos.run.suite_report import failure_lines
from chaos.simulation.suite.coverage import Coverage
from chaos.simulation.suite.pool import Pool, WorkerFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult(RunResult):
    """A simulated run. ``story``: the events of its trace as lines, if asked for.

    ``digest``: see ``SimulatedRun``; empty if the harness failed.
    """

    digest: str
    virtual_seconds: float
    coverage: Coverage
    story: tuple[str, ...]


class SimulationArena:
    """Runs specs on the workers of a pool (an ``Arena``).

    ``apps``: modules of handlers beside the workload's. ``story``: describe every event of each
    run, or only those of ``task``.
    """

    def __init__(
        self,
        pool: Pool,
        apps: Sequence[str] = (),
        *,
        story: bool = False,
        task: str | None = None,
    ) -> None:
        self._pool = pool
        self._options = {"apps": list(apps), "story": story, "task": task}

    async def run(self, spec: RunSpec) -> SimulationResult:
        """Simulate and judge one run; it is kept in the run store unless it is true.

        Raises:
            RunFailed: the harness itself failed.
            WorkerFailed: a worker process broke.
        """
        async for _, answer in self._pool.answers([self._job(spec)]):
            if "failure" in answer:
                raise _failure(answer)
            return _result(answer)
        raise WorkerFailed("no answer")

    async def results(
        self, specs: Sequence[RunSpec]
    ) -> AsyncIterator[tuple[RunSpec, SimulationResult]]:
        """Simulate the specs on all workers; yield each result as its run ends.

        Raises:
            WorkerFailed: a worker process broke.
        """
        jobs = (self._job(spec) | {"number": number} for number, spec in enumerate(specs))
        async for job, answer in self._pool.answers(jobs):
            spec = specs[job["number"]]
            lines = failure_lines(_failure(answer), spec) if "failure" in answer else None
            yield spec, _result(answer, lines)

    def _job(self, spec: RunSpec) -> dict[str, Any]:
        return self._options | {
            "job": "run",
            "scenario": spec.scenario.document,
            "seed": spec.seed,
            "runs": str(spec.runs),
            "keep": spec.keep,
            "mutant": spec.mutant,
            "drain_seconds": spec.drain_seconds,
        }


def _failure(answer: Mapping[str, Any]) -> RunFailed:
    return RunFailed(answer["failure"], outcomes.parse(answer["outcome"]))


def _result(answer: Mapping[str, Any], lines: tuple[str, ...] | None = None) -> SimulationResult:
    return SimulationResult(
        outcome=outcomes.parse(answer["outcome"]),
        lines=tuple(answer["lines"]) if lines is None else lines,
        digest=answer.get("digest", ""),
        virtual_seconds=answer.get("virtual_seconds", 0.0),
        coverage=Coverage.parse(answer.get("coverage", {})),
        story=tuple(answer.get("story", ())),
    )
