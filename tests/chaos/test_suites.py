"""Suites: names on the command line stand for scenarios that exist, in an order that is told."""

from __future__ import annotations

import pytest

from chaos.scenario import scenario as scenarios
from chaos.scenario.suites import expand, spread, suites


def test_a_suite_names_only_scenarios_that_come_along_and_each_once() -> None:
    assert {"default", "full"} <= {*suites()}
    for name, members in suites().items():
        assert members, name
        assert len(members) == len({*members}), name
        assert {*members} <= {*scenarios.names()}, name
        # A name on the command line must mean one thing.
        assert name not in scenarios.names()


def test_full_is_everything_and_default_a_choice_of_it() -> None:
    assert {*suites()["full"]} == {*scenarios.names()}
    assert {*suites()["default"]} < {*suites()["full"]}
    # The control comes first: if it is red, the others mean nothing.
    assert {members[0] for members in suites().values()} == {"calm"}


def test_the_default_breaks_every_part_of_the_stack() -> None:
    drawn = [scenarios.find(name).drawn(1) for name in suites()["default"]]
    struck = {part for each in drawn for plan in each.faults for part in plan.target}
    told = " ".join(struck)
    for part in ("worker", "scheduler", "postgres", "redis"):
        assert part in told, part
    # Its loads alone must leave room for starting, healing and draining within six minutes.
    assert sum(each.workload.seconds for each in drawn) < 200


def test_seeds_are_spread_over_everything_and_the_rest_are_storms() -> None:
    every = scenarios.names()
    assert len(spread(3)) == 3
    two = [each.id for each in spread(2 * len(every) + 5)]
    assert {name: two.count(name) for name in every} == dict.fromkeys(every, 2) | {"storm": 7}
    tasks = [each.workload.tasks for each in spread(len(every))]
    assert tasks == sorted(tasks, reverse=True)


def test_names_of_suites_are_replaced_by_their_scenarios() -> None:
    default = list(suites()["default"])
    assert expand([]) == default
    assert expand(["default"]) == default
    assert expand(["storm", "default", "./my.yaml"]) == ["storm", *default, "./my.yaml"]
    assert expand(["full"]) == list(scenarios.names())


def test_a_suite_cannot_be_changed_by_whoever_reads_it() -> None:
    with pytest.raises(TypeError):
        suites()["default"] = ()  # type: ignore[index]
