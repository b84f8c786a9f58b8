"""The report of several runs, from which all files of a suite derive."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from chaos.report.outcome import Outcome, Verdict, worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An additional table of a command, such as which invariant killed which mutant."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteReport:
    """Runs in order; fewer than ``planned`` if the suite was interrupted or is still running."""

    title: str
    started: str
    planned: int
    runs: tuple[Outcome, ...] = ()
    seconds: float | None = None
    tables: tuple[Table, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        """False if a run is false, else unknown if one is unknown or missing."""
        found = worst({run.verdict for run in self.runs})
        return "unknown" if found == "true" and len(self.runs) < self.planned else found

    @property
    def as_expected(self) -> int:
        return sum(run.as_expected for run in self.runs)

    @property
    def passed(self) -> bool:
        """Whether every planned run ended as expected."""
        return self.as_expected == len(self.runs) == self.planned

    @property
    def document(self) -> dict[str, Any]:
        """Plain JSON values that ``parse`` reads back."""
        return {"kind": "suite", "verdict": self.verdict, "passed": self.passed} | asdict(self)


_ADAPTER: TypeAdapter[SuiteReport] = TypeAdapter(SuiteReport)


def parse(document: Any) -> SuiteReport:
    """Parse the ``summary.json`` of a suite.

    Raises:
        ValidationError: the document is not a suite.
    """
    return _ADAPTER.validate_python(document)
