"""One process of a simulated suite: its own servers, jobs in on stdin, answers out on stdout.

``python -m chaos.simulation.suite.worker``; one JSON document per line, both ways. It ends with its
stdin, and on SIGTERM or SIGINT; its servers end with it, whatever happens (``system.guardian``).
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

from chaos.book import failure_lines, lines
from chaos.filing import RunFailed
from chaos.runs import RunStore
from chaos.scenario import Scenario
from chaos.simulation.diagnosis.variants import variant_job
from chaos.simulation.run import Order, Ran, simulate
from chaos.simulation.stage.foundation import Foundation
from chaos.simulation.story import Story
from chaos.simulation.suite.benchmark import benchmark_job
from chaos.simulation.sweep.trial import sweep_job

Job = Callable[[Foundation, dict[str, Any]], dict[str, Any]]


def run_job(foundation: Foundation, job: dict[str, Any]) -> dict[str, Any]:
    """One seed. ``scenario`` (document), ``seed``, ``runs``, and what else ``Order`` has;
    ``task``: with a story, only that of one task.
    """
    scenario = Scenario.model_validate(job.pop("scenario"))
    task = job.pop("task", None)
    options = job | {"runs": Path(job["runs"]), "apps": tuple(job.get("apps", ()))}
    order = Order(scenario, **options)
    try:
        ran = simulate(order, foundation)
    except RunFailed as error:
        told = failure_lines(error, scenario, order.seed, RunStore(order.runs))
        return {"outcome": asdict(error.outcome), "lines": told}
    return {
        "outcome": asdict(ran.outcome),
        "lines": lines(ran.judgement, ran.seconds, order.seed, ran.directory),
        "digest": ran.digest,
        "virtual_seconds": ran.virtual_seconds,
        "seconds": ran.seconds,
        "coverage": ran.coverage.document,
        "story": _story(ran, task) if order.story else [],
    }


def _story(ran: Ran, task: str | None) -> list[str]:
    try:
        return Story(ran.judgement, ran.entries).text(task)
    except LookupError as error:
        return [str(error)]


JOBS: Mapping[str, Job] = MappingProxyType(
    {"benchmark": benchmark_job, "run": run_job, "sweep": sweep_job, "variant": variant_job}
)


def main() -> None:
    """Serve jobs until there are no more."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The harness decides: Ctrl-C reaches the whole group, it then closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with Foundation.laid() as foundation:
        replies.write(b'{"ready":true}\n')
        for line in sys.stdin.buffer:
            job = orjson.loads(line)
            try:
                reply = JOBS[job.pop("job")](foundation, job)
            except Exception:  # noqa: BLE001 - told to the harness, which stops
                reply = {"error": traceback.format_exc()}
            replies.write(orjson.dumps(reply, option=orjson.OPT_NON_STR_KEYS) + b"\n")


if __name__ == "__main__":
    main()
