"""Make runs with each verdict, and read report pages."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

from specimen import Specimen

from chaos.checker.verdict import Judgement, judge
from chaos.history.history import History
from chaos.history.records import Effect
from chaos.report.html import render_run
from chaos.report.injections import PlannedFault
from chaos.report.model import RunModel
from chaos.report.page import page
from holdfast.model.lifecycle import Reason

KILL: dict[str, Any] = {
    "faults": [{"name": "murder", "fault": "kill", "target": "worker-1", "at": 1, "for": 1}]
}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<!--"


class Reader(HTMLParser):
    """Collects the elements of a page with their attributes, its text and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def troubled(*, observed: bool = True) -> Specimen:
    """Make a run in which a worker is killed with a task in flight; another task succeeds."""
    run = Specimen(plan=KILL)
    life = run.submit("victim").dispatch().claim("worker-1")
    run.submit("calm one").dispatch().claim("worker-2").succeed()
    run.inject("murder#1", "kill", "worker-1", observed=observed)
    life.end(Reason.LOST).dispatch().claim("worker-2").succeed()
    life.stale_finish("worker-1", 1)
    return run


def without_effects(run: Specimen) -> History:
    return run.edited(lambda r: None if isinstance(r, Effect) else r)


def judged(verdict: str) -> Judgement:
    made = {
        "true": lambda: troubled().history(),
        "unknown": lambda: troubled(observed=False).history(),
        "false": lambda: without_effects(troubled()),
    }
    found = judge(made[verdict]())
    assert found.verdict == verdict
    return found


def found(history: History) -> tuple[PlannedFault, ...]:
    return RunModel(judge(history)).planned_faults


def rendered(judgement: Judgement) -> Reader:
    return Reader(render_run(page(judgement, 12.0)))
