"""Render pages as self-contained files: no network, no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from loadtest.plot import plot
from loadtest.summary import MEANINGS, Summary, format_figure

_TEMPLATES = Path(__file__).parent / "templates"


def render_summary(summary: Summary) -> str:
    """Return the page of one load run."""
    drawn = summary.curves
    plots = [
        plot("Waiting (due and not finished)", "tasks", [("waiting", drawn.waiting)]),
        plot("Rate", "tasks/s", [("stored", drawn.stored), ("drained", drawn.drained)]),
        plot(
            "From due to finished, all tasks",
            "ms",
            [("p99", drawn.latency_p99), ("p50", drawn.latency_p50)],
        ),
    ]
    return render("summary.html", {"summary": summary, "plots": plots, "meanings": MEANINGS})


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a page from a template; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["format_figure"] = format_figure
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(values, style=style)
