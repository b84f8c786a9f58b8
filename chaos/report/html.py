"""Render pages as self-contained files: they need no network and no other file.

The templates escape all data (autoescape), and a content security policy allows only our own
script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from chaos.report.page import Page, replay
from chaos.report.story import Gap
from chaos.report.suite import SuiteReport
from chaos.report.timeline import duration

_TEMPLATES = Path(__file__).parent / "templates"


def render_run(page: Page) -> str:
    """Render the page of one run."""
    return _render("run.html", "run.js", {"page": page})


def render_suite(suite: SuiteReport) -> str:
    """Render the page of several runs, with links to their own pages."""
    judged = [run.meters for run in suite.runs if run.meters is not None]
    totals = (
        (sum(run.verdict == "true" for run in suite.runs), "true"),
        (sum(run.verdict == "false" for run in suite.runs), "false"),
        (sum(run.verdict == "unknown" for run in suite.runs), "unknown"),
        (sum(meters.accepted for meters in judged), "tasks accepted"),
        (sum(meters.effects for meters in judged), "effects"),
        (sum(meters.faults_felt for meters in judged), "faults observed"),
        (sum(meters.stale_writes_refused for meters in judged), "stale writes refused"),
        (sum(meters.duplicates_suppressed for meters in judged), "duplicates suppressed"),
    )
    mutants = any(run.expected == "false" for run in suite.runs)
    values = {"suite": suite, "totals": totals, "mutants": mutants}
    return _render("suite.html", "suite.js", values)


def _render(name: str, script: str, values: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pairs"] = pairs
    environment.filters["duration"] = duration
    environment.filters["replayed"] = lambda run: replay(
        run.scenario, run.seed, run.mutant, run.arena
    )
    environment.tests["gap"] = lambda part: isinstance(part, Gap)
    code = (_TEMPLATES / script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment.get_template(name).render(
        values,
        style=(_TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=code,
        policy=(
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
    )


def pairs(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return evidence as names and values in text; an inner mapping is one value."""
    return [(str(name).replace("_", " "), _text(value)) for name, value in evidence.items()]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text}" for name, text in pairs(value))
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)
