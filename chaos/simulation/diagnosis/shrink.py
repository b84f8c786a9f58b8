"""Shrink a failing scenario greedily, pass by pass (``--shrink``).

A variant is accepted if it violates the invariant of the original run and adds no doubt (such as a
fault that was not observed), so that after the fix it is a regression test that can pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from chaos.report.files import write
from chaos.scenario.scenario import Scenario, parse
from chaos.simulation.diagnosis.reduce import PASSES, Candidate, size
from chaos.simulation.diagnosis.variants import VariantResult, Variants

Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest scenario found, the result of its run, and the accepted steps."""

    scenario: Scenario
    tried: VariantResult
    steps: tuple[str, ...]


class Shrinker:
    """Looks for a smaller scenario in at most ``most`` runs; calls ``show`` with each step."""

    def __init__(self, variants: Variants, law: str, most: int, show: Show) -> None:
        self._variants = variants
        self._law = law
        self._show = show
        self._end = variants.made + most
        self._doubts: frozenset[str] = frozenset()

    @property
    def left(self) -> int:
        """The number of runs left."""
        return max(0, self._end - self._variants.made)

    async def shrink(self, scenario: Scenario, tried: VariantResult) -> Shrunk:
        """Shrink ``scenario``, which violates the invariant; ``tried``: the result of its run."""
        self._doubts = frozenset(tried.doubts)
        steps: list[str] = []
        before = -1
        while self.left and before < len(steps):
            before = len(steps)
            for each in PASSES:
                while found := await self._first(each(scenario, tried, self._law)):
                    candidate, tried = found
                    scenario = candidate.scenario
                    steps.append(candidate.what)
                    self._show(f"{candidate.what}: {describe(scenario)}")
        return Shrunk(scenario, tried, tuple(steps))

    async def _first(
        self, candidates: Iterable[Candidate]
    ) -> tuple[Candidate, VariantResult] | None:
        """Return the first candidate that is accepted, in their order."""
        fresh = (each for each in candidates if not self._variants.known(each.scenario))
        while some := list(islice(fresh, min(self._variants.at_once, self.left))):
            results = await self._variants.of(each.scenario for each in some)
            for candidate, tried in zip(some, results, strict=True):
                if tried.breaks(self._law) and self._doubts.issuperset(tried.doubts):
                    return candidate, tried
        return None


def describe(scenario: Scenario) -> str:
    """Return the size of a scenario as text."""
    return ", ".join(f"{what} {count}" for what, count in size(scenario).items())


def write_regression(path: Path, scenario: Scenario, head: Iterable[str]) -> None:
    """Write the scenario as YAML that ``scenario.load`` reads back.

    ``head``: lines of a leading comment.

    Raises:
        OSError: the file cannot be written.
    """
    document = scenario.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    body = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)
    text = "".join(f"# {line}\n" for line in head) + body
    if parse(text, str(path)) != scenario:
        raise ValueError(f"{path}: the written scenario does not read back equal:\n{text}")
    write(path, text.encode())


def write_diagram(path: Path, title: str, head: Iterable[str], diagram: str) -> None:
    """Write a Markdown page with the Mermaid diagram; ``head``: paragraphs above it.

    Raises:
        OSError: the file cannot be written.
    """
    text = "\n\n".join([f"# {title}", *head, f"```mermaid\n{diagram}\n```"])
    write(path, f"{text}\n".encode())
