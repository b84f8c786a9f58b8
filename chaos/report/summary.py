"""``summary.json``: the judgements of a run of one or more scenarios, for machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from chaos.verdict import Judgement


def summarise(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """``{"verdict", "runs": [...]}``; the whole is false if one is, else unknown if one is."""
    runs = [_run(judgement) for judgement in judgements]
    verdicts = {run["verdict"] for run in runs}
    worst = next((v for v in ("false", "unknown") if v in verdicts), "true" if runs else "unknown")
    return {"verdict": worst, "runs": runs}


def write(path: Path, judgements: Iterable[Judgement]) -> None:
    """Writes ``summarise`` of the judgements as JSON, indented."""
    path.write_bytes(
        orjson.dumps(summarise(judgements), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


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
