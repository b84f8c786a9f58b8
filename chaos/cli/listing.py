"""List scenarios, mutants and kept runs as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from chaos.mutants import MUTANTS
from chaos.report.outcome import Outcome
from chaos.run.store import RunStore, StoreEntry
from chaos.scenario import scenario as scenarios
from chaos.scenario.scenario import Scenario, ScenarioError
from chaos.scenario.suites import suites

_WIDTH = 100


def scenarios_lines() -> Iterator[str]:
    """Yield name, suites, hypothesis and faults of each included scenario."""
    width = max(len(name) for name in scenarios.names())
    for name in scenarios.names():
        within = ", ".join(suite for suite, names in suites().items() if name in names)
        try:
            about = _about(scenarios.find(name))
        except (ScenarioError, OSError) as error:
            about = [f"cannot be used: {error}"]
        yield f"{name:<{width}}  in {within or 'no suite'}"
        yield from (f"{'':<{width}}  {line}" for text in about for line in _wrapped(text, width))


def mutants_lines() -> Iterator[str]:
    """Yield name, scenario, guard and change of each mutant (``mutants --list``: with files)."""
    width = max((len(name) for name in MUTANTS), default=0)
    for mutant in MUTANTS.values():
        yield f"mutant {mutant.name:<{width}}  {mutant.scenario}"
        text = f"{mutant.guard}: {mutant.what}"
        yield from (f"{'':<7}{'':<{width}}  {line}" for line in _wrapped(text, width + 7))


def runs_lines(store: RunStore) -> Iterator[str]:
    """Yield the kept runs and suites, newest first: verdict, seed, seconds, directory."""
    for kept in store.entries():
        yield _kept(kept)


def _about(scenario: Scenario) -> list[str]:
    faults = [f"{fault.fault} x{fault.times}" for fault in scenario.faults]
    drawn = ["drawn by the seed"] if scenario.storm else []
    environment = ", ".join(scenario.topology.environment)
    return [
        scenario.hypothesis.strip(),
        f"faults: {', '.join([*faults, *drawn]) or 'none'}",
        *([f"environment: {environment}"] if environment else []),
    ]


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, max(40, _WIDTH - indent - 2))


def _kept(kept: StoreEntry) -> str:
    name = kept.directory
    if kept.kind == "damaged":
        return f"{'damaged':<8} {kept.problem}  {name}"
    if kept.suite is not None:
        suite = kept.suite
        took = _seconds(suite.seconds)
        good = f"{suite.as_expected} of {suite.planned} as expected"
        return f"{suite.verdict:<8} {'suite':<26} {good:<26} {took:>6}  {name}"
    return _run(kept.outcomes[0], str(name))


def _run(run: Outcome, directory: str) -> str:
    what = f"seed {run.seed}" + (f", {run.mutant}" if run.mutant else "")
    return f"{run.verdict:<8} {run.scenario:<26} {what:<26} {_seconds(run.seconds):>6}  {directory}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f} s"
