"""Measure how fast the simulation is: ``python -m chaos run --arena simulation --benchmark``."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from chaos.history.records import ArenaName
from chaos.run.spec import RunSpec
from chaos.scenario import scenario as scenarios
from chaos.scenario.scenario import Scenario
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.run import simulate
from chaos.simulation.suite.pool import Pool
from chaos.simulation.suite.sampler import StackSampler
from chaos.simulation.sweep import trial

_REFERENCE = Path(__file__).with_name("benchmark.yaml")
_SMALL = "one_task"  # a scope of the crash sweep
_PROCESSES = (1, 2)
_REFERENCE_SEEDS, _SMALL_SEEDS = 8, 24
_SAMPLED_SEEDS = 2
_FIRST_SEED = 1000


def benchmark_job(foundation: SharedServers, job: dict[str, Any]) -> dict[str, Any]:
    """Run one seed: ``scenario`` (document), ``seed``, ``runs``.

    ``sampled``: also measure where the time goes, which costs some.
    """
    scenario = Scenario.model_validate(job["scenario"])
    spec = RunSpec(ArenaName.SIMULATION, scenario, job["seed"], Path(job["runs"]))
    sampler = StackSampler()
    with sampler.on() if job["sampled"] else contextlib.nullcontext():
        ran = simulate(spec, foundation)
    return {
        "virtual_seconds": ran.virtual_seconds,
        "seconds": ran.seconds,
        "statements": ran.coverage.statements.total(),
        "shares": sampler.shares if job["sampled"] else {},
    }


@dataclass(frozen=True, slots=True)
class _Speed:
    """The speed of several processes together, one value for each seed."""

    ratios: list[float]  # virtual seconds per second
    seeds: list[float]  # per second

    def __str__(self) -> str:
        least, middle, most = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        return (
            f"{middle:.1f} virtual seconds per second ({least:.1f} to {most:.1f}), "
            f"{statistics.median(self.seeds):.2f} seeds per second"
        )


class Benchmark:
    """Measures the reference scenario and the smallest scope, in one process and in two."""

    async def run(self) -> None:
        """Print the results.

        Raises:
            WorkerFailed: a simulating process broke.
        """
        load, cores = os.getloadavg()[0], os.cpu_count()
        typer.echo(f"{cores} cores, load before: {load:.1f}; each figure: median (least to most)")
        reference = scenarios.parse(_REFERENCE.read_text(encoding="utf-8"), str(_REFERENCE))
        with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as runs:
            await _measure(reference, _REFERENCE_SEEDS, runs)
            await _measure(trial.scope(_SMALL), _SMALL_SEEDS, runs)


async def _measure(scenario: Scenario, seeds: int, runs: str) -> None:
    speeds: list[_Speed] = []
    for processes in _PROCESSES:
        async with Pool(processes).up() as pool:
            # One warm-up run per process.
            await _answers(pool, scenario, range(processes), runs)
            first = range(processes, processes + seeds * processes)
            answers = await _answers(pool, scenario, first, runs)
            if not speeds:
                sampled = range(_SAMPLED_SEEDS)
                samples = await _answers(pool, scenario, sampled, runs, sampled=True)
                typer.echo(_title(scenario, answers))
        speeds.append(
            _Speed(
                [processes * each["virtual_seconds"] / each["seconds"] for each in answers],
                [processes / each["seconds"] for each in answers],
            )
        )
        typer.echo(f"  processes {processes}: {speeds[-1]}")
    one, two = (statistics.median(speed.ratios) for speed in speeds)
    typer.echo(f"  two processes: {two / one:.2f} times one")
    typer.echo(f"  time of one: {_shares(samples)}")


async def _answers(
    pool: Pool, scenario: Scenario, seeds: range, runs: str, *, sampled: bool = False
) -> list[dict[str, Any]]:
    def jobs() -> Iterator[dict[str, Any]]:
        for seed in seeds:
            yield {
                "job": "benchmark",
                "scenario": scenario.document,
                "seed": _FIRST_SEED + seed,
                "runs": runs,
                "sampled": sampled,
            }

    return [answer async for _, answer in pool.answers(jobs())]


def _title(scenario: Scenario, answers: list[dict[str, Any]]) -> str:
    virtual = statistics.median(each["virtual_seconds"] for each in answers)
    statements = statistics.median(each["statements"] for each in answers)
    return (
        f"{scenario.id}: tasks {scenario.workload.tasks}, processes of the product "
        f"{len(scenario.topology.processes)}, faults {len(scenario.faults)}, virtual seconds "
        f"{virtual:.1f}, statements of the product {statements:.0f}"
    )


def _shares(answers: list[dict[str, Any]]) -> str:
    names = {
        "product": "product and its libraries",
        "Postgres": "waiting for Postgres",
        "Valkey": "waiting for Valkey",
        "arena": "arena and judge",
    }
    return ", ".join(
        f"{text} {statistics.mean(each['shares'].get(who, 0.0) for each in answers):.0%}"
        for who, text in names.items()
    )
