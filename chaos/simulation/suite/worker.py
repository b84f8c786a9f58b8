"""A worker process of a simulated suite with its own servers: jobs on stdin, answers on stdout.

``python -m chaos.simulation.suite.worker``; one JSON document per line, both ways. It ends with its
stdin or on SIGTERM; its servers always end with it (``holdfast.devstack.reaper``).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from chaos.history.records import ArenaName
from chaos.run.artifacts import RunFailed
from chaos.run.spec import RunSpec
from chaos.run.suite_report import run_lines
from chaos.scenario.scenario import Scenario
from chaos.simulation.diagnosis.variants import variant_job
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.run import SimulatedRun, SimulationOptions, simulate
from chaos.simulation.story import Story
from chaos.simulation.suite.benchmark import benchmark_job
from chaos.simulation.sweep.trial import sweep_job

Job = Callable[[SharedServers, dict[str, Any]], dict[str, Any]]


def run_job(foundation: SharedServers, job: dict[str, Any]) -> dict[str, Any]:
    """Run one seed (the job is made by ``SimulationArena``); ``task``: limits the story."""
    spec = RunSpec(
        ArenaName.SIMULATION,
        Scenario.model_validate(job["scenario"]),
        job["seed"],
        Path(job["runs"]),
        keep=job["keep"],
        mutant=job["mutant"],
        drain_seconds=job["drain_seconds"],
    )
    options = SimulationOptions(apps=tuple(job["apps"]), story=job["story"])
    try:
        ran = simulate(spec, foundation, options)
    except RunFailed as error:
        return {"outcome": asdict(error.outcome), "failure": error.reasons}
    return {
        "outcome": asdict(ran.outcome),
        "lines": run_lines(ran.judgement, ran.seconds, spec.seed, ran.directory),
        "digest": ran.digest,
        "virtual_seconds": ran.virtual_seconds,
        "seconds": ran.seconds,
        "coverage": ran.coverage.document,
        "story": _story(ran, job["task"]) if options.story else [],
    }


def _story(ran: SimulatedRun, task: str | None) -> list[str]:
    try:
        return Story(ran.judgement, ran.entries).text(task)
    except LookupError as error:
        return [str(error)]


JOBS: Mapping[str, Job] = MappingProxyType(
    {"benchmark": benchmark_job, "run": run_job, "sweep": sweep_job, "variant": variant_job}
)


def main() -> None:
    """Serve jobs until stdin ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Ctrl-C reaches the whole process group; the harness then closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with SharedServers.open() as foundation:
        replies.write(b'{"ready":true}\n')
        for line in sys.stdin.buffer:
            job = orjson.loads(line)
            try:
                reply = JOBS[job.pop("job")](foundation, job)
            except Exception:  # noqa: BLE001 - sent to the harness, which stops
                reply = {"error": traceback.format_exc()}
            replies.write(orjson.dumps(reply, option=orjson.OPT_NON_STR_KEYS) + b"\n")


if __name__ == "__main__":
    main()
