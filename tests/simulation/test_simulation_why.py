"""``--why``: branching futures, the curve over them, and its jump."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.scenario.scenario import Scenario
from chaos.simulation.diagnosis.variants import (
    BranchPoint,
    BrokenInvariant,
    VariantResult,
    Variants,
)
from chaos.simulation.diagnosis.why import FUTURES, Chance, Curve, Inquiry, plot
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.rng import Branch, RngStreams
from chaos.simulation.network.network import Network
from chaos.simulation.suite.pool import Pool

CALM = Scenario.model_validate(
    {
        "id": "calm_enough",
        "hypothesis": "Nothing much happens here at all.",
        "workload": {"tasks": 1, "seconds": 1},
    }
)
BROKEN = BrokenInvariant("S9", "it broke", "s7-00001", 1)
ALL, NONE = Chance(FUTURES, FUTURES), Chance(0, FUTURES)


# ------------------------------------------------------------------------------ the rng


def test_streams_follow_the_seed_until_the_branch() -> None:
    plain, branched = RngStreams(7), RngStreams(7, Branch(1.0, "a"))
    streams = plain.stream("locks"), branched.stream("locks")
    assert streams[0].random() == streams[1].random()
    branched.diverge()
    assert streams[0].random() != streams[1].random()
    assert plain.stream("born later").random() != branched.stream("born later").random()


def test_each_salt_is_a_reproducible_future() -> None:
    def after(salt: str) -> float:
        rng = RngStreams(7, Branch(1.0, salt))
        stream = rng.stream("locks")
        rng.diverge()
        return stream.random()

    assert after("a") == after("a")
    assert len({after(salt) for salt in "abcdef"}) == 6


def steps(branch: Branch | None) -> list[tuple[float, str]]:
    """Return the order of steps of five nodes that are ready at each of ten instants."""
    loop = SimulationLoop(7, branch=branch)
    network = Network(loop)
    ran: list[tuple[float, str]] = []

    async def node() -> None:
        for _ in range(10):
            await asyncio.sleep(1.0 - loop.time() % 1.0)
            ran.append((round(loop.time(), 3), asyncio.current_task().get_name()))  # type: ignore[union-attr]

    async def main() -> None:
        nodes = [loop.start(f"node-{n}", node) for n in range(5)]
        for each in nodes:
            await each.wait()

    try:
        loop.run(main)
    finally:
        loop.dispose()
        network.close()
    return ran


def test_run_follows_the_seed_until_the_branch() -> None:
    plain = steps(None)
    assert plain == steps(None)
    futures = [steps(Branch(5.5, str(n))) for n in range(4)]
    for future in futures:
        assert future[:25] == plain[:25]
    assert any(future[25:] != plain[25:] for future in futures)
    assert steps(Branch(5.5, "0")) == futures[0]


# ------------------------------------------------------------------------------ the curve


@given(st.integers(2, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_jump_is_found_by_bisection(case: tuple[int, int]) -> None:
    count, culprit = case
    curve = Curve([True] * count)
    looks = 0
    while (place := curve.next()) is not None:
        curve.put(place, ALL if place >= culprit else NONE)
        looks += 1
    jump = curve.jump()
    assert jump is not None
    assert (jump.before, jump.after, jump.by) == (culprit - 1, culprit, 1.0)
    assert looks <= 5 + count.bit_length()


def test_points_of_the_task_are_measured_first() -> None:
    own = [place % 10 == 0 for place in range(101)]
    curve = Curve(own)
    looked: list[int] = []
    while (place := curve.next()) is not None:
        looked.append(place)
        curve.put(place, ALL if place >= 47 else NONE)
    assert all(own[place] for place in looked[:5])
    assert 40 in looked
    assert 50 in looked
    jump = curve.jump()
    assert jump is not None
    assert (jump.before, jump.after) == (46, 47)


def test_curve_without_a_rise_is_not_refined() -> None:
    curve = Curve([True] * 50)
    looked = 0
    while (place := curve.next()) is not None:
        curve.put(place, ALL)
        looked += 1
    assert looked == 5
    assert curve.jump() is None


# ------------------------------------------------------------------------------ the question


class Oracle(Pool):
    """Futures that branch off after ``culprit`` violate the invariant, others do not."""

    def __init__(self, culprit: float) -> None:
        super().__init__(0)
        self._guilty = culprit
        self.branches: list[tuple[float, str]] = []

    async def answers(
        self, jobs: Iterable[Mapping[str, Any]]
    ) -> AsyncIterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        for job in jobs:
            at, salt = job["branch"]
            self.branches.append((at, salt))
            other = BrokenInvariant("S9", "another task", "s7-00002", 2)
            broken = (BROKEN,) if at >= self._guilty else (other,)
            yield job, asdict(VariantResult("false", broken))


POINTS = [BranchPoint(n / 10, f"worker-{n}             did {n}", own=True) for n in range(40)]


async def asked(culprit: float, most: int = 500) -> tuple[Curve, Oracle]:
    oracle = Oracle(culprit)
    shown: list[str] = []
    inquiry = Inquiry(Variants(oracle, 2, 7, None, ()), BROKEN, most, shown.append)
    curve = await inquiry.ask(CALM, POINTS)
    assert len(shown) == len(curve.known)
    return curve, oracle


async def test_event_at_the_jump_is_blamed() -> None:
    curve, oracle = await asked(1.7)
    lines = plot(curve, POINTS, 0.5, BROKEN)
    assert lines[0] == ("probability that S9 is violated by s7-00001, with new random draws after")
    assert lines[-2:] == [
        "The probability jumps from 0/6 to 6/6 at 1.2000 s:",
        "  worker-17 did 17",
    ]
    assert "█" * 20 in lines[-3]
    assert "█" not in lines[1]
    # Branches start just after the instant, and no future is run twice.
    assert all(0 < at - round(at, 1) < 1e-5 for at, _ in oracle.branches)
    assert len(set(oracle.branches)) == len(oracle.branches)


async def test_small_budget_gives_an_interval() -> None:
    curve, oracle = await asked(1.7, most=5 * FUTURES)
    assert len(oracle.branches) == 5 * FUTURES
    lines = plot(curve, POINTS, 0.0, BROKEN)
    assert lines[-2].startswith("The probability jumps from 0/6 to 6/6 between ")


@pytest.mark.parametrize(
    ("culprit", "expected"),
    [(-1.0, "the scenario itself"), (1000.0, "rises nowhere")],
)
async def test_missing_jump_is_reported(culprit: float, expected: str) -> None:
    curve, _ = await asked(culprit)
    assert expected in plot(curve, POINTS, 0.0, BROKEN)[-1]
