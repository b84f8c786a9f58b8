"""Find the event after which a violation becomes likely (``--why``).

The run is replayed up to an instant and continued from there with other random draws: order of
steps, latencies, lock grants, held commits. The share of these futures that still violate the
invariant estimates its probability at that instant. The event at which the share jumps is to blame;
the instants to measure are bisected towards the jump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.scenario.scenario import Scenario
from chaos.simulation.diagnosis.variants import BranchPoint, BrokenInvariant, Variants
from chaos.simulation.kernel.rng import Branch

FUTURES = 6
# The first measurements divide the run into this many parts.
_PARTS = 4
# Branch just after the instant; trace times are rounded to microseconds.
_AFTER_SECONDS = 2e-6
_BAR = 20
_SURE = 0.8
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chance:
    """How many of the ``futures`` from a point violate the invariant."""

    broke: int
    futures: int

    @property
    def share(self) -> float:
        return self.broke / self.futures


@dataclass(frozen=True, slots=True)
class Jump:
    """A rise of the share between two measured points, given by their indexes."""

    before: int
    after: int
    by: float


class Curve:
    """The measured chances of the violation over all points of a run.

    ``own``: for each point, whether it belongs to the task; these are measured first.
    """

    def __init__(self, own: Sequence[bool]) -> None:
        self._own = own
        self.known: dict[int, Chance] = {}

    def put(self, place: int, chance: Chance) -> None:
        """Record the chance at a point."""
        self.known[place] = chance

    def next(self) -> int | None:
        """Return the next point to measure.

        First evenly over all points, then in the middle of the largest jump. None if that is
        between two neighbours, or if there is none.
        """
        first = self._preferred(range(len(self._own)))
        last = len(first) - 1
        for part in range(_PARTS + 1):
            if (place := first[last * part // _PARTS]) not in self.known:
                return place
        jump = self.jump()
        if jump is None or jump.after - jump.before < 2:
            return None
        inside = self._preferred(range(jump.before + 1, jump.after))
        return inside[len(inside) // 2]

    def _preferred(self, places: range) -> Sequence[int]:
        return [place for place in places if self._own[place]] or places

    def jump(self) -> Jump | None:
        """Return the largest rise between two known points (the last of equal ones), or None."""
        steps = [
            Jump(a, b, self.known[b].share - self.known[a].share)
            for a, b in pairwise(sorted(self.known))
        ]
        best = max(reversed(steps), key=lambda step: step.by, default=None)
        return best if best is not None and best.by > 0 else None


class Inquiry:
    """Measures, in at most ``most`` runs, the curve of one violation."""

    def __init__(self, variants: Variants, broken: BrokenInvariant, most: int, show: Show) -> None:
        self._variants = variants
        self._broken = broken
        self._end = variants.made + most
        self._show = show

    async def ask(self, scenario: Scenario, points: Sequence[BranchPoint]) -> Curve:
        """Return the curve over ``points``; the first one is the beginning of the run."""
        curve = Curve([point.own for point in points])
        while (place := curve.next()) is not None and self._variants.made + FUTURES <= self._end:
            at = points[place].at + _AFTER_SECONDS
            branches = [Branch(at, f"{place}.{number}") for number in range(FUTURES)]
            futures = await self._variants.futures(scenario, branches)
            broke = sum(each.breaks(self._broken.law, self._broken.task) for each in futures)
            curve.put(place, Chance(broke, FUTURES))
            self._show(f"{broke} of {FUTURES} from {points[place].what}")
        return curve


def plot(
    curve: Curve, points: Sequence[BranchPoint], zero: float, broken: BrokenInvariant
) -> list[str]:
    """Return a line per measured point and the event to blame; ``zero``: see ``VariantResult``."""
    subject = f" by {broken.task}" if broken.task else ""
    lines = [f"probability that {broken.law} is violated{subject}, with new random draws after"]
    for place in sorted(curve.known):
        chance, point = curve.known[place], points[place]
        filled = round(_BAR * chance.share)
        bar = "█" * filled + "·" * (_BAR - filled)
        count = f"{chance.broke}/{chance.futures}"
        lines.append(f"{point.at - zero:10.4f}  {bar} {count:>5}  {point.what}")
    return [*lines, *_blame(curve, points, zero)]


def _blame(curve: Curve, points: Sequence[BranchPoint], zero: float) -> list[str]:
    jump = curve.jump()
    first = curve.known.get(0)
    if first is not None and first.share >= _SURE:
        return [
            "The violation does not depend on chance: the scenario itself causes it (use --shrink)."
        ]
    if jump is None:
        return ["The probability rises nowhere: a rare coincidence late in the run."]
    before, after = curve.known[jump.before], curve.known[jump.after]
    rise = f"{before.broke}/{before.futures} to {after.broke}/{after.futures}"
    blamed = points[jump.after]
    where = f"at {blamed.at - zero:.4f} s"
    if jump.after - jump.before > 1:
        start = points[jump.before]
        where = (
            f"between {start.at - zero:.4f} and {blamed.at - zero:.4f} s, where the last event is"
        )
    return [f"The probability jumps from {rise} {where}:", f"  {' '.join(blamed.what.split())}"]
