"""Write JUnit XML of a suite for CI servers: a test case per run.

``false`` is a failure (an assertion did not hold); ``unknown`` is an error: the run could not prove
anything. It is not "skipped", which servers count as passed, while the command itself exits with 1.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from chaos.report.outcome import Outcome
from chaos.report.page import replay
from chaos.report.suite import SuiteReport

# Characters that XML 1.0 cannot represent, not even escaped.
_INVALID = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(suite: SuiteReport) -> bytes:
    """Return the document with its XML declaration."""
    cases = list(suite.runs)
    failures = sum(not run.as_expected and run.verdict != "unknown" for run in cases)
    errors = sum(not run.as_expected and run.verdict == "unknown" for run in cases)
    totals = {
        "name": _valid(suite.title),
        "tests": str(len(cases)),
        "failures": str(failures),
        "errors": str(errors),
        "skipped": "0",
        "time": _seconds(sum(run.seconds or 0.0 for run in cases)),
    }
    everything = ET.Element("testsuites", {k: v for k, v in totals.items() if k != "skipped"})
    element = ET.SubElement(everything, "testsuite", totals | {"timestamp": suite.started[:19]})
    for run in cases:
        _case(element, run)
    ET.indent(everything)
    text: bytes = ET.tostring(everything, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(suite: ET.Element, run: Outcome) -> None:
    name = f"{run.scenario}[seed={run.seed}{f',mutant={run.mutant}' if run.mutant else ''}]"
    attributes = {
        "classname": f"chaos.{run.arena}.{run.scenario}",
        "name": _valid(name),
        "time": _seconds(run.seconds or 0.0),
    }
    case = ET.SubElement(suite, "testcase", attributes)
    properties = ET.SubElement(case, "properties")
    again = replay(run.scenario, run.seed, run.mutant, run.arena)
    facts = {"seed": run.seed, "mutant": run.mutant, "commit": run.commit, "verdict": run.verdict}
    for key, value in (facts | {"directory": run.directory, "replay": again}).items():
        if value is not None:
            ET.SubElement(properties, "property", {"name": key, "value": _valid(str(value))})
    if not run.as_expected:
        _trouble(case, run, again)


def _trouble(case: ET.Element, run: Outcome, again: str) -> None:
    lines = [f"{v.invariant}: {v.task_id or 'the run'}: {v.message}" for v in run.violations]
    lines += [f"{law} violated {count} times in all" for law, count in (run.laws or {}).items()]
    lines += [f"unknown: {doubt}" for doubt in run.doubts]
    if run.expected == "false":
        lines.insert(0, f"mutant {run.mutant} was not caught")
    element = ET.SubElement(
        case,
        "error" if run.verdict == "unknown" else "failure",
        {"message": _valid(lines[0] if lines else run.verdict), "type": run.verdict},
    )
    element.text = _valid("\n".join([*lines, f"again: {again}"]))


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _valid(text: str) -> str:
    return _INVALID.sub("\N{REPLACEMENT CHARACTER}", text)
