"""From which instant on was the violation bound to come?

The run is repeated up to some instant as it was, and from there on with other chance: another
order of steps, other latencies, lock grants and held commits. How many of these futures still break
the law says how likely it is from there. Where that jumps, the event of that instant is to blame.
The instants to look at are bisected towards the jump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.scenario.scenario import Scenario
from chaos.simulation.diagnosis.variants import BranchPoint, BrokenInvariant, Variants
from chaos.simulation.kernel.rng import Branch

FUTURES = 6
# At first the run is cut into so many parts.
_PARTS = 4
# Just after the instant itself, whose time is known to the microsecond.
_AFTER_SECONDS = 2e-6
_BAR = 20
_SURE = 0.8
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chance:
    """Of ``futures`` from a point on, so many broke the law."""

    broke: int
    futures: int

    @property
    def share(self) -> float:
        return self.broke / self.futures


@dataclass(frozen=True, slots=True)
class Jump:
    """From the point ``before`` to the point ``after`` (places in the list), by this much."""

    before: int
    after: int
    by: float


class Curve:
    """The chance of the violation at each of many points, as far as it is known.

    ``own``: for each point, whether it is one of the task's own; those are looked at first.
    """

    def __init__(self, own: Sequence[bool]) -> None:
        self._own = own
        self.known: dict[int, Chance] = {}

    def put(self, place: int, chance: Chance) -> None:
        """What was found at a point."""
        self.known[place] = chance

    def next(self) -> int | None:
        """Where to look now: evenly over all, then in the middle of the largest jump; None: the
        jump is between two neighbours, or there is none.
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
        """The largest rise between two known points; of equal ones the last. None: no rise."""
        steps = [
            Jump(a, b, self.known[b].share - self.known[a].share)
            for a, b in pairwise(sorted(self.known))
        ]
        best = max(reversed(steps), key=lambda step: step.by, default=None)
        return best if best is not None and best.by > 0 else None


class Inquiry:
    """Asks, in at most ``most`` runs, which event of a run made ``broken`` happen."""

    def __init__(self, variants: Variants, broken: BrokenInvariant, most: int, show: Show) -> None:
        self._variants = variants
        self._broken = broken
        self._end = variants.made + most
        self._show = show

    async def ask(self, scenario: Scenario, points: Sequence[BranchPoint]) -> Curve:
        """The curve over ``points``, the first of which is the beginning."""
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
    """One line per point looked at, and the event to blame. ``zero``: as in ``VariantResult``."""
    subject = f" by {broken.task}" if broken.task else ""
    lines = [f"how likely {broken.law} is violated{subject}, if all is drawn anew after"]
    for place in sorted(curve.known):
        chance, point = curve.known[place], points[place]
        filled = round(_BAR * chance.share)
        bar = "█" * filled + "·" * (_BAR - filled)
        told = f"{chance.broke}/{chance.futures}"
        lines.append(f"{point.at - zero:10.4f}  {bar} {told:>5}  {point.what}")
    return [*lines, *_blame(curve, points, zero)]


def _blame(curve: Curve, points: Sequence[BranchPoint], zero: float) -> list[str]:
    jump = curve.jump()
    first = curve.known.get(0)
    if first is not None and first.share >= _SURE:
        return ["It comes whatever chance decides: the plan itself leads there (--shrink it)."]
    if jump is None:
        return ["It is no likelier anywhere: a rare coincidence of what comes last."]
    before, after = curve.known[jump.before], curve.known[jump.after]
    rise = f"{before.broke}/{before.futures} to {after.broke}/{after.futures}"
    guilty = points[jump.after]
    where = f"at {guilty.at - zero:.4f} s"
    if jump.after - jump.before > 1:
        start = points[jump.before]
        where = (
            f"between {start.at - zero:.4f} and {guilty.at - zero:.4f} s, where the last event is"
        )
    return [f"It jumps from {rise} {where}:", f"  {' '.join(guilty.what.split())}"]
