"""Suites: names on the command line that stand for existing scenarios in a fixed order."""

from __future__ import annotations

import pytest

from chaos.scenario import scenario as scenarios
from chaos.scenario.suites import expand, spread, suites

UNSIMULATED = {"behind_pgbouncer", "shared_servers"}


def test_suite_names_included_scenarios_once_each() -> None:
    assert {"default", "full"} <= {*suites()}
    for name, members in suites().items():
        assert members, name
        assert len(members) == len({*members}), name
        assert {*members} <= {*scenarios.names()}, name
        # A name on the command line must be unambiguous.
        assert name not in scenarios.names()


def test_full_has_all_scenarios_and_default_a_subset() -> None:
    assert {*suites()["full"]} == {*scenarios.names()}
    assert {*suites()["default"]} < {*suites()["full"]}
    # The control comes first: if it is not true, the others prove nothing.
    assert {members[0] for members in suites().values()} == {"calm"}


def test_default_suite_breaks_every_part_of_the_stack() -> None:
    drawn = [scenarios.find(name).drawn(1) for name in suites()["default"]]
    targets = {part for each in drawn for plan in each.faults for part in plan.target}
    joined = " ".join(targets)
    for part in ("worker", "scheduler", "postgres", "redis"):
        assert part in joined, part
    # The loads must leave time for starting, healing and draining within six minutes.
    assert sum(each.workload.seconds for each in drawn) < 200


def test_seeds_are_spread_evenly_and_the_remainder_are_storms() -> None:
    # Two need servers that keep real time (tests/chaos/test_conditions.py).
    every = [name for name in scenarios.names() if name not in UNSIMULATED]
    assert len(spread(3)) == 3
    two = [each.id for each in spread(2 * len(every) + 5)]
    assert {name: two.count(name) for name in every} == dict.fromkeys(every, 2) | {"storm": 7}
    tasks = [each.workload.tasks for each in spread(len(every))]
    assert tasks == sorted(tasks, reverse=True)


def test_suite_names_expand_to_their_scenarios() -> None:
    default = list(suites()["default"])
    assert expand([]) == default
    assert expand(["default"]) == default
    assert expand(["storm", "default", "./my.yaml"]) == ["storm", *default, "./my.yaml"]
    assert expand(["full"]) == list(scenarios.names())


def test_suites_are_immutable() -> None:
    with pytest.raises(TypeError):
        suites()["default"] = ()  # type: ignore[index]
