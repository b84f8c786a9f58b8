"""The options of ``python -m chaos``, one type each."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from chaos.history.records import ArenaName
from chaos.run.generated import trial

RUNS = Path(".holdfast/runs")
PROCESSES = os.cpu_count() or 1


class TierChoice(StrEnum):
    """Where generated mutants are tried."""

    SIMULATION = "simulation"
    TESTS = "tests"
    ALL = "all"

    @property
    def tiers(self) -> list[trial.Tier]:
        """The tiers themselves."""
        return list(trial.Tier) if self is TierChoice.ALL else [trial.Tier(self)]


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Scenarios, YAML files, or suites (default, full). Default: the default suite; in "
        "the simulation 50 seeds spread over all scenarios.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of the workload and of the targets of faults; default: random."),
]
Runs = Annotated[int, typer.Option(min=1, help="Runs per scenario, with increasing seeds.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep logs of runs that are true.")]
Arena = Annotated[
    ArenaName,
    typer.Option(
        help="live: real processes on this machine. simulation: the same code on real servers, "
        "in virtual time, determined by the seed. compose: live, in Docker containers."
    ),
]
Mutant = Annotated[
    str | None,
    typer.Option(help="Plant this mutant in a copy of the system; see `mutants --list`."),
]
Trace = Annotated[bool, typer.Option("--trace", help="Print every event of each run (simulation).")]
Task = Annotated[
    str | None, typer.Option(help="With --trace: only the events of this task, by its key.")
]
Shrink = Annotated[
    bool, typer.Option("--shrink", help="Then reduce the scenario of the first false run.")
]
ShrinkRuns = Annotated[int, typer.Option(min=1, help="Maximum number of runs of --shrink.")]
Into = Annotated[
    Path | None, typer.Option(help="The YAML file of --shrink; default: with the run.")
]
Why = Annotated[
    bool, typer.Option("--why", help="Then find the event after which the run could only fail.")
]
WhyRuns = Annotated[int, typer.Option(min=1, help="Maximum number of runs of --why.")]
Apps = Annotated[
    list[str] | None,
    typer.Option("--app", help="A further module with @task functions (simulation)."),
]
Processes = Annotated[
    int, typer.Option(min=1, help="Number of parallel simulations; default: one per core.")
]
Benchmark = Annotated[
    bool, typer.Option("--benchmark", help="Instead, measure how fast the simulation is.")
]
RunsDirectory = Annotated[Path, typer.Option(help="Directory of the run store.")]
Targets = Annotated[
    Path | None,
    typer.Option(
        help="While a run is up, list its processes in this JSON file for Prometheus "
        "(file_sd_configs), and export the active faults as a metric (live)."
    ),
]
MutantProcesses = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of mutants at a time; default: one per core, with --generated one per two "
        "cores.",
    ),
]
Generated = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Instead, draw this many generic changes from --seed, and try each by simulation and "
        "by the tests; the next three are for these.",
    ),
]
Tier = Annotated[TierChoice, typer.Option(help="Where generated mutants are tried.")]
Hours = Annotated[float | None, typer.Option(min=0, help="Start no trial after this time.")]
Results = Annotated[
    Path | None,
    typer.Option(
        help="File of the results, one line per mutant and tier; what has a line is not tried "
        "again. Default: .holdfast/mutants-SEED.jsonl."
    ),
]
