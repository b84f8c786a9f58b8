"""The environment of a topology: its names, its evidence, and the arenas that can arrange it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from specimen import Specimen

from chaos.checker.condition_doubts import condition_doubts
from chaos.checker.verdict import judge
from chaos.history.conditions import Condition
from chaos.history.records import ArenaName
from chaos.observers.conditions import redis_users
from chaos.scenario import scenario as scenarios
from chaos.scenario.conditions import CONDITIONS, REDIS_RULES, REDIS_USER, STATEMENT_TIMEOUT_MS
from chaos.scenario.fit import Unfit, require_fit
from chaos.scenario.scenario import Scenario, ScenarioError
from chaos.scenario.suites import spread

README = (Path(__file__).parents[2] / "system" / "README.md").read_text(encoding="utf-8")
# What shows each condition, and what does not.
SHOWN: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "serializable": (
        {"default_transaction_isolation": "serializable"},
        [{"default_transaction_isolation": "read committed"}],
    ),
    "statement_timeout": (
        {"sqlstate": "57014", "seconds": STATEMENT_TIMEOUT_MS / 1000},
        [{"sqlstate": None}, {"seconds": 0.1}, {"seconds": 30.0}],
    ),
    "redis_acl": ({"user": 5, "others": 0}, [{"user": 0}, {"others": 1}]),
    "slow_start": (
        {"roles": 6, "waiting": 6, "seconds": 2.0},
        [{"waiting": 5}, {"roles": 0, "waiting": 0}, {"seconds": 0.5}],
    ),
    "pgbouncer": (
        {"clients": 8, "backends": 5, "sessions": 5},
        [{"backends": 8}, {"sessions": 20}, {"sessions": 0}, {"clients": 4}],
    ),
    "old_snapshot": ({"transactions": 9}, [{"transactions": 0}, {"transactions": None}]),
    "redis_idle_timeout": ({"seconds": 1.3}, [{"seconds": 0.1}, {"seconds": 9.0}]),
}
WRONG = [(name, wrong) for name, (_, all_wrong) in SHOWN.items() for wrong in all_wrong]


def of_environment(*names: str) -> Scenario:
    document = scenarios.find("calm").document
    document["topology"]["environment"] = names
    return Scenario.model_validate(document)


def doubts(scenario: Scenario, *conditions: Condition) -> list[str]:
    run = Specimen()
    run.records += conditions
    return list(condition_doubts(run.history(), scenario))


def seen(name: str, **evidence: Any) -> Condition:
    return Condition(name=name, at=9.0, evidence=evidence)


def test_every_condition_has_evidence_that_is_tested() -> None:
    assert SHOWN.keys() == CONDITIONS.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_condition_that_is_shown_is_not_doubted(name: str) -> None:
    good, _ = SHOWN[name]
    assert doubts(of_environment(name), seen(name, **good)) == []
    for needed in good:
        incomplete = {key: value for key, value in good.items() if key != needed}
        assert len(doubts(of_environment(name), seen(name, **incomplete))) == 1


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_implausible_evidence_is_doubted(name: str, wrong: dict[str, Any]) -> None:
    (doubt,) = doubts(of_environment(name), seen(name, **SHOWN[name][0] | wrong))
    assert doubt.startswith(f"topology.environment: {name} is not shown by ")


def test_condition_that_nobody_saw_or_asked_for_is_doubted() -> None:
    assert doubts(of_environment("redis_acl")) == [
        "topology.environment: no evidence that redis_acl was in force"
    ]
    (doubt,) = doubts(of_environment("redis_acl"), seen("redis_acl", error="no route"))
    assert doubt == "topology.environment: redis_acl is not shown by error no route"
    (doubt,) = doubts(of_environment(), seen("redis_acl", user=5, others=0))
    assert doubt == "topology.environment: redis_acl was in force, but is not asked for"


def test_each_look_must_show_the_condition() -> None:
    good, bad = seen("redis_acl", user=5, others=0), seen("redis_acl", user=5, others=1)
    for looks in ((good, bad), (bad, good)):
        (doubt,) = doubts(of_environment("redis_acl"), *looks)
        assert doubt == "topology.environment: redis_acl is not shown by user 5, others 1"


def test_doubt_about_the_environment_makes_a_run_unknown() -> None:
    run = Specimen({"topology": {"environment": ["serializable"]}})
    run.submit("a").dispatch().claim().succeed()
    judgement = judge(run.history())
    assert judgement.verdict == "unknown"
    assert "no evidence that serializable was in force" in " ".join(judgement.doubts)
    shown = seen("serializable", default_transaction_isolation="serializable")
    run.records.append(shown)
    assert judge(run.history()).verdict == "true"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("redis_oom", "redis_oom: it happens at an instant: plan the fault refuse_writes of redis"),
        ("redis_readonly", "plan the fault demote of redis"),
        ("silent_drop", "plan the fault silent_drop of edges"),
        ("redis_alc", "redis_alc: no such condition (did you mean redis_acl?)"),
        ("[redis_acl, redis_acl]", "redis_acl appears twice"),
    ],
)
def test_wrong_name_is_explained(environment: str, message: str) -> None:
    text = (scenarios.SCENARIOS / "late_servers.yaml").read_text(encoding="utf-8")
    old = "environment: [redis_acl, slow_start]"
    with pytest.raises(ScenarioError, match=re.escape(message)):
        scenarios.parse(text.replace(old, f"environment: {environment}"), "file.yaml")


def test_one_condition_needs_no_list() -> None:
    assert scenarios.find("behind_pgbouncer").topology.environment == ("pgbouncer",)


def test_every_condition_is_in_an_included_scenario() -> None:
    found = {c for n in scenarios.names() for c in scenarios.find(n).topology.environment}
    assert found == {*CONDITIONS}


def test_simulation_refuses_by_name_what_it_cannot_do() -> None:
    unsimulated = {name for name, kind in CONDITIONS.items() if kind.unsimulated}
    assert unsimulated == {"pgbouncer", "old_snapshot", "redis_idle_timeout"}
    for name in CONDITIONS:
        if name not in unsimulated:
            require_fit(of_environment(name), ArenaName.SIMULATION)
            continue
        with pytest.raises(Unfit, match=rf"^calm: {name}: [^\n]+; run this scenario with .* live$"):
            require_fit(of_environment(name), ArenaName.SIMULATION)
        require_fit(of_environment(name), ArenaName.LIVE)
    simulated = {scenario.id for scenario in spread(len(scenarios.names()))}
    assert simulated == {*scenarios.names()} - {"behind_pgbouncer", "shared_servers"}


def test_roles_may_do_what_the_readme_publishes_and_no_more() -> None:
    assert f"ACL SETUSER {REDIS_USER} {REDIS_RULES}\n" in README


def test_clients_of_redis_are_counted_by_their_user() -> None:
    clients = [
        "id=3 addr=127.0.0.1:1 flags=N user=holdfast cmd=xreadgroup lib-name=redis-py",
        "id=4 addr=127.0.0.1:2 flags=b user=holdfast cmd=xadd",
        "id=5 addr=127.0.0.1:3 flags=O user=default cmd=monitor",
        "id=6 addr=127.0.0.1:4 flags=N user=default cmd=client|list",
    ]
    assert redis_users("\n".join(clients)) == {"user": 2, "others": 0}
    other = "id=7 addr=127.0.0.1:5 flags=N user=default cmd=set"
    assert redis_users("\n".join([*clients, other])) == {"user": 2, "others": 1}
