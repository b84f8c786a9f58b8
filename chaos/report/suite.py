"""Several runs of one command as one document: ``summary.json``, ``junit.xml``, ``report.html``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from chaos.report.outcome import Outcome, Verdict, worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Further rows that a command has to show, such as which mutant was killed by what."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteReport:
    """Runs in order. ``planned``: how many there were to be; fewer runs: it was ended early, or is
    still going on.
    """

    title: str
    started: str
    planned: int
    runs: tuple[Outcome, ...] = ()
    seconds: float | None = None
    tables: tuple[Table, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        """False if a run is, else unknown if one is or is missing."""
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
        """Plain JSON values, which ``parse`` reads back."""
        return {"kind": "suite", "verdict": self.verdict, "passed": self.passed} | asdict(self)


_ADAPTER: TypeAdapter[SuiteReport] = TypeAdapter(SuiteReport)


def parse(document: Any) -> SuiteReport:
    """A suite out of its ``summary.json``.

    Raises:
        ValidationError: it is none.
    """
    return _ADAPTER.validate_python(document)
