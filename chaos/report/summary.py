"""Summarise judged runs for machines, as ``summary.json`` stores them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from chaos.checker.verdict import Judgement
from chaos.report.outcome import worst


def summarise(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """Return ``{"verdict", "runs": [...]}`` with the worst verdict of the runs."""
    runs = [_run(judgement) for judgement in judgements]
    return {"verdict": worst({run["verdict"] for run in runs}), "runs": runs}


def _run(judgement: Judgement) -> dict[str, Any]:
    run = judgement.history.run
    return {
        "scenario": judgement.scenario,
        "arena": judgement.arena,
        "seed": judgement.seed,
        "commit": run.commit,
        "mutant": judgement.mutant,
        "verdict": judgement.verdict,
        "meters": asdict(judgement.meters),
        "bound": asdict(run.bound),
        "sometimes": judgement.sometimes,
        "doubts": list(judgement.doubts),
        "violations": [
            {
                "invariant": violation.invariant,
                "task_id": violation.task_id,
                "message": violation.message,
                "evidence": [asdict(record) for record in violation.evidence],
            }
            for violation in judgement.violations
        ],
    }
