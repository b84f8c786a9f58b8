"""What a campaign found: killed and survived by file and by tier, and each survivor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from chaos.mutants.generated import GeneratedMutant
from chaos.run.generated.results import Results
from chaos.run.generated.trial import Fate, MutantTrial, Tier

_COLUMNS = "{:<36} {:>7} {:>8} {:>10} " + 2 * "{:>12} {:>8} " + "{:>7} {:>10}"
_TITLES = (
    *("file", "mutants", "no build", "equivalent"),
    *("simulation", "not run", "tests", "not run", "any", "survivors"),
)


@dataclass(frozen=True, slots=True)
class TriedMutant:
    """A mutant with its trials. ``why``: why it is equivalent, else empty."""

    mutant: GeneratedMutant
    trials: tuple[MutantTrial, ...]
    why: str

    @property
    def builds(self) -> bool:
        return all(trial.fate is not Fate.DOES_NOT_BUILD for trial in self.trials)

    @property
    def killed(self) -> bool:
        """Whether any tier killed it."""
        return any(trial.fate is Fate.KILLED for trial in self.trials)

    @property
    def counts(self) -> bool:
        """Whether something should kill it: it builds and is not equivalent."""
        return self.builds and (self.killed or not self.why)

    @property
    def survived(self) -> bool:
        return self.counts and not self.killed

    def fate(self, tier: Tier) -> Fate | None:
        """Return how it ended in a tier; None if it was not tried there."""
        return next((trial.fate for trial in self.trials if trial.tier is tier), None)


def tried_mutants(
    mutants: Iterable[GeneratedMutant], results: Results, equivalent: Mapping[str, str]
) -> list[TriedMutant]:
    """Return the mutants that some tier tried, ordered by file and line."""
    found = []
    for mutant in sorted(mutants, key=attrgetter("file", "line", "name")):
        trials = tuple(trial for tier in Tier if (trial := results.get(mutant.name, tier)))
        if trials:
            found.append(TriedMutant(mutant, trials, equivalent.get(mutant.name, "")))
    return found


def table(tried: Sequence[TriedMutant]) -> Iterator[str]:
    """Yield a line per file, per folder, and for all.

    A cell of a tier is killed / tried there; ``not run``: nothing there executes the changed lines.
    """
    yield _COLUMNS.format(*_TITLES)
    for folder, group in groupby(tried, key=lambda each: each.mutant.folder):
        of_folder = list(group)
        for file, same in groupby(of_folder, key=lambda each: each.mutant.file):
            yield _row(f"  {file.removeprefix('system/holdfast/')}", list(same))
        yield _row(folder, of_folder)
    yield _row("all", tried)


def survivors(tried: Sequence[TriedMutant]) -> Iterator[str]:
    """Yield each mutant that no tier killed, with its diff and what the tiers said."""
    for each in tried:
        if each.killed or not each.builds:
            continue
        head = f"{each.mutant.name} {each.mutant.file}:{each.mutant.line} {each.mutant.operator}"
        yield ""
        yield f"{head}: equivalent: {each.why}" if each.why else f"{head}: survived"
        for trial in each.trials:
            yield f"  {trial.tier}: {trial.fate}, {trial.tried} tried. {trial.by}".rstrip()
        yield each.mutant.diff.rstrip()


def _row(name: str, tried: Sequence[TriedMutant]) -> str:
    counted = [each for each in tried if each.counts]
    cells: list[object] = []
    for tier in Tier:
        fates = [each.fate(tier) for each in counted]
        killed, survived = fates.count(Fate.KILLED), fates.count(Fate.SURVIVED)
        cells += [f"{killed}/{killed + survived}", fates.count(Fate.NOT_EXECUTED)]
    return _COLUMNS.format(
        name,
        len(tried),
        sum(not each.builds for each in tried),
        sum(each.builds and not each.counts for each in tried),
        *cells,
        f"{sum(each.killed for each in counted)}/{len(counted)}",
        sum(each.survived for each in counted),
    )
