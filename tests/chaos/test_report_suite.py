"""The report of several runs: a page, JSON that is read back, and JUnit XML."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from report_reader import HOSTILE, Reader, judged
from specimen import Specimen

from chaos.checker.verdict import judge
from chaos.report import files, suite
from chaos.report.html import render_suite
from chaos.report.junit import junit
from chaos.report.outcome import Outcome, outcome, parse, worst
from chaos.report.suite import SuiteReport, Table
from chaos.run.store import read


def of(*runs: Outcome, planned: int | None = None, tables: tuple[Table, ...] = ()) -> SuiteReport:
    return SuiteReport(
        title="three: seed 7",
        started="2026-01-09T10:00:00+00:00",
        planned=len(runs) if planned is None else planned,
        runs=runs,
        seconds=61.5,
        tables=tables,
    )


def outcome_of(verdict: str, seconds: float = 20.5) -> Outcome:
    return outcome(judged(verdict), seconds=seconds, directory=f"run-{verdict}")


FAILED = Outcome(
    scenario="calm", seed=3, verdict="unknown", doubts=("the harness failed: no port",), seconds=2.0
)


@pytest.mark.parametrize("verdict", ["true", "false", "unknown"])
def test_outcome_is_read_back_from_the_summary_of_its_run(verdict: str, tmp_path: Path) -> None:
    directory = tmp_path / f"run-{verdict}"
    directory.mkdir()
    written = files.write_run(directory, judged(verdict), 20.5)
    assert written == outcome_of(verdict)
    assert read(directory).outcomes == (written,)
    assert sorted(path.name for path in directory.iterdir()) == ["report.html", "summary.json"]


def test_suite_is_read_back_from_its_summary(tmp_path: Path) -> None:
    table = Table(title="mutants", columns=("mutant", "killed by"), rows=(("a", "S1"),))
    written = of(outcome_of("true"), outcome_of("false"), FAILED, tables=(table,))
    files.write_suite(tmp_path, written)
    document = json.loads((tmp_path / "summary.json").read_bytes())
    assert (document["kind"], document["verdict"], document["passed"]) == ("suite", "false", False)
    assert suite.parse(document) == written
    assert read(tmp_path).suite == written


def test_worst_verdict_wins_and_a_missing_run_is_unknown() -> None:
    assert worst({"true", "unknown", "false"}) == "false"
    assert worst({"true", "unknown"}) == "unknown"
    assert worst({"true"}) == "true"
    assert worst(set()) == "unknown"
    assert of(outcome_of("true")).passed
    early = of(outcome_of("true"), planned=2)
    assert (early.verdict, early.passed) == ("unknown", False)
    caught = parse({"scenario": "s", "seed": 1, "verdict": "false", "expected": "false"})
    assert of(caught).passed


# ---------------------------------------------------------------------------------------- JUnit


def test_junit_has_a_case_per_run_with_its_failure() -> None:
    document = ET.fromstring(
        junit(of(outcome_of("true"), outcome_of("false"), outcome_of("unknown"), FAILED))
    )
    (one,) = document.findall("testsuite")
    assert document.tag == "testsuites"
    assert one.attrib | {"timestamp": ""} == {
        "name": "three: seed 7",
        "tests": "4",
        "failures": "1",
        "errors": "2",
        "skipped": "0",
        "time": "63.500",
        "timestamp": "",
    }
    assert one.get("timestamp") == "2026-01-09T10:00:00"
    good, bad, doubtful, failed = one.findall("testcase")
    assert (good.get("name"), good.get("time")) == ("specimen[seed=7]", "20.500")
    assert [child.tag for child in good] == ["properties"]
    facts = {p.get("name"): p.get("value") for p in good.iter("property")}
    assert (facts["seed"], facts["verdict"]) == ("7", "true")
    assert facts["replay"] == "python -m chaos run ./specimen.yaml --seed 7"
    (failure,) = bad.findall("failure")
    assert "SUCCEEDED with 0 ledger rows" in (failure.get("message") or "")
    assert "S11 violated 2 times in all" in (failure.text or "")
    (error,) = doubtful.findall("error")
    assert error.get("message") == "unknown: fault murder#1 was injected, but not observed"
    assert failed.findall("error")[0].get("message") == "unknown: the harness failed: no port"


def test_junit_is_well_formed_for_any_text() -> None:
    bad = Outcome(
        scenario="x]]>",
        seed=1,
        verdict="false",
        mutant=HOSTILE,
        doubts=(HOSTILE, "nul \x00, escape \x1b[31m, half \ud800, bell \x07, not \ufffe"),
    )
    document = ET.fromstring(junit(of(bad)))
    (case,) = document.iter("testcase")
    assert HOSTILE in (case.get("name") or "")
    (failure,) = case.findall("failure")
    assert HOSTILE in (failure.text or "")
    assert "nul \ufffd, escape \ufffd[31m, half \ufffd" in (failure.text or "")


def test_killed_mutant_passes_in_junit() -> None:
    base = {"scenario": "s", "seed": 1, "mutant": "m", "expected": "false"}
    runs = (parse(base | {"verdict": "false"}), parse(base | {"verdict": "true"}))
    caught, survived = ET.fromstring(junit(of(*runs))).iter("testcase")
    assert caught.find("failure") is None
    failure = survived.find("failure")
    assert failure is not None
    assert failure.get("message") == "mutant m was not caught"


# -------------------------------------------------------------------------------------- the page


def test_suite_page_has_a_row_and_a_link_per_run() -> None:
    table = Table(title="mutants", columns=("mutant",), rows=((HOSTILE,),))
    page = Reader(
        render_suite(
            of(outcome_of("true"), outcome_of("false"), FAILED, planned=4, tables=(table,))
        )
    )
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    trouble, good, bad, story = links
    assert trouble == bad == "../run-false/report.html"
    assert good == "../run-true/report.html"
    assert (story or "").startswith("../run-false/report.html#task=")
    words = " ".join(page.words)
    assert "1 of 4 true" in words
    assert "Look at:" in words
    assert "1 of 4 runs are missing" in words
    assert "the harness failed: no port" in words
    assert "violated 2 times" in words
    assert "python -m chaos run calm --seed 3" in words
    assert HOSTILE in words
    assert len(page.scripts) == 1


def test_suite_without_runs_has_a_page() -> None:
    words = " ".join(Reader(render_suite(of(planned=3))).words)
    assert "No run has ended yet." in words
    assert "0 of 3 true" in words


def test_empty_run_has_a_page(tmp_path: Path) -> None:
    files.write_page(tmp_path / "report.html", judge(Specimen().history()), None)
    words = " ".join(Reader((tmp_path / "report.html").read_text()).words)
    assert "no task was accepted" in words
    assert "None: this scenario injects no faults." in words
