"""The options of ``python -m chaos run``, one type each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Arena(StrEnum):
    """Where the faults happen."""

    LIVE = "live"
    SIMULATION = "simulation"
    COMPOSE = "compose"


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Scenarios, YAML files, or suites (default, full). None: the default suite, or "
        "when simulating 50 seeds spread over all scenarios.",
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Of the workload and of who is struck; default: drawn.")
]
Runs = Annotated[int, typer.Option(min=1, help="Each scenario so often, seeds going up.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep logs of runs that are true.")]
Where = Annotated[
    Arena,
    typer.Option(
        help="live: real processes on this machine. simulation: the same code on real servers, "
        "in virtual time, from the seed. compose: live, in containers, by Docker."
    ),
]
Mutant = Annotated[
    str | None, typer.Option(help="Plant this fault in a copy of the system; see mutants.")
]
Trace = Annotated[bool, typer.Option("--trace", help="Tell every event of each run (simulation).")]
Task = Annotated[
    str | None, typer.Option(help="With --trace: only the events of this task, by its key.")
]
Shrink = Annotated[
    bool, typer.Option("--shrink", help="Then make the plan of the first false run smaller.")
]
ShrinkRuns = Annotated[int, typer.Option(min=1, help="In so many runs at most.")]
Into = Annotated[
    Path | None, typer.Option(help="The YAML file of --shrink; default: with the run.")
]
Why = Annotated[
    bool, typer.Option("--why", help="Then find the event after which it was bound to fail.")
]
WhyRuns = Annotated[int, typer.Option(min=1, help="In so many runs at most.")]
Apps = Annotated[
    list[str] | None,
    typer.Option("--app", help="A module with your @task functions, too (simulation)."),
]
Processes = Annotated[
    int, typer.Option(min=1, help="Simulate so many seeds at a time; default: one per core.")
]
Benchmark = Annotated[
    bool, typer.Option("--benchmark", help="Instead, measure how fast the simulation is.")
]
RunsDirectory = Annotated[Path, typer.Option(help="Where histories are kept.")]
Targets = Annotated[
    Path | None,
    typer.Option(
        help="While a run is up, list its processes in this JSON file for Prometheus "
        "(file_sd_configs), and the faults that hold as a metric (live)."
    ),
]
