"""Write the files of a report into a directory of the run store, each atomically."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from chaos.checker.verdict import Judgement
from chaos.report import summary
from chaos.report.html import render_run, render_suite
from chaos.report.junit import junit
from chaos.report.outcome import Outcome, outcome
from chaos.report.page import page
from chaos.report.suite import SuiteReport

HISTORY, SUMMARY, REPORT, JUNIT = "history.jsonl", "summary.json", "report.html", "junit.xml"
FAILURE = "failure.txt"


def write_run(directory: Path, judgement: Judgement, seconds: float | None) -> Outcome:
    """Write ``summary.json`` and ``report.html`` of a judged run; return its outcome."""
    summarised = outcome(judgement, seconds=seconds, directory=directory.name)
    document = summary.summarise([judgement])
    document["runs"][0] |= {
        "seconds": seconds,
        "directory": directory.name,
        "laws": summarised.laws,
    }
    _write_json(directory / SUMMARY, {"kind": "run"} | document)
    write_page(directory / REPORT, judgement, seconds)
    return summarised


def write_page(path: Path, judgement: Judgement, seconds: float | None) -> None:
    """Write the page of a judged run alone."""
    write(path, render_run(page(judgement, seconds)).encode())


def write_failure(directory: Path, failed: Outcome) -> None:
    """Write ``summary.json`` of a run that could not be judged."""
    document = {"kind": "run", "verdict": failed.verdict, "runs": [asdict(failed)]}
    _write_json(directory / SUMMARY, document)


def write_suite(directory: Path, suite: SuiteReport) -> None:
    """Write ``summary.json``, ``junit.xml`` and ``report.html`` of several runs."""
    _write_json(directory / SUMMARY, suite.document)
    write_junit(directory, suite)
    write(directory / REPORT, render_suite(suite).encode())


def write_junit(directory: Path, suite: SuiteReport) -> None:
    """Write ``junit.xml`` alone: a single run already has the other files."""
    write(directory / JUNIT, junit(suite))


def write(path: Path, content: bytes) -> None:
    """Replace the file atomically: a concurrent reader sees the old or the new content."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    write(path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
