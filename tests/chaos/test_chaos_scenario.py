"""Scenario files: the included ones are valid, and mistakes are explained."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from chaos.scenario import scenario as scenarios
from chaos.scenario.faults import FaultSpec
from chaos.scenario.operations import Workload
from chaos.scenario.scenario import SCENARIOS, Scenario, ScenarioError
from chaos.scenario.vocabulary import FAULTS, SAFETY, UNCONDITIONAL, TargetKind

SHIPPED = scenarios.names()
# The invariants that every scenario requires.
UNIVERSAL = {*UNCONDITIONAL}


def test_promised_scenarios_are_included_and_the_control_is_first() -> None:
    promised = """
        calm api_killed cancel_storm clock_skew commit_reply_lost database_down_longer_than_lease
        database_latency database_restart herd late_finish poison_task pool_exhaustion
        redis_amnesia redis_flapping redis_half_open redis_partition rolling_restart
        scheduler_pause_overlap schedulers_killed storm two_versions workers_killed zombie_worker
    """
    assert scenarios.names()[0] == "calm"
    assert {*scenarios.names()} >= {*promised.split()}


@pytest.mark.parametrize("name", SHIPPED)
def test_included_scenario_is_valid(name: str) -> None:
    scenario = scenarios.find(name)
    assert Scenario.model_validate(scenario.document) == scenario
    assert {*scenario.expect.always} >= UNIVERSAL
    assert "L1" in scenario.expect.eventually
    settings = scenario.settings(label="worker-1")
    assert settings.lease_seconds >= 3 * settings.heartbeat_seconds
    assert settings.label == "worker-1"
    assert _targets_processes(scenario) <= {*scenario.topology.processes}


@pytest.mark.parametrize("name", SHIPPED)
def test_included_scenario_injects_faults_under_load(name: str) -> None:
    scenario = scenarios.find(name)
    load = scenario.workload
    # The control opens no window; every other scenario does.
    assert bool(scenario.windows) == (name != "calm")
    assert name != "calm" or not scenario.faults
    for plan in scenario.drawn(1).faults:
        # Injected while there is load, so that tasks are in flight.
        assert plan.after is not None or (plan.at or 0) < _last_due(load)
        assert plan.candidates(scenario.drawn(1).topology)
        if plan.after is not None and plan.after.actor is not None:
            actors = scenario.topology.processes
            assert any(fnmatchcase(actor, plan.after.actor) for actor in actors)


def _last_due(load: Workload) -> float:
    """Return the second until which tasks are submitted or become due."""
    return load.due_between[1] if load.due_between else load.seconds


def _targets_processes(scenario: Scenario) -> set[str]:
    plans = [plan for plan in scenario.faults if plan.target_kind is TargetKind.PROCESS]
    return {name for plan in plans for name in plan.candidates(scenario.topology)}


def windows() -> set[str]:
    """Return all known fault windows, W01 to W44."""
    return {f"W{number:02d}" for number in range(1, 45)}


def test_scenarios_name_only_known_windows() -> None:
    opened = {window for name in SHIPPED for window in scenarios.find(name).windows}
    assert opened <= windows()


def test_every_fault_and_conditional_invariant_is_used() -> None:
    found = [scenarios.find(name) for name in SHIPPED]
    faults = {plan.fault for each in found for plan in each.faults}
    faults |= {option.fault for each in found if each.storm for option in each.storm.menu}
    # No included scenario needs these: the others cover their effects.
    spare = {"reset_peer", "slicer", "slow_close", "limit_data", "restart_empty"}
    assert {*FAULTS} - faults <= spare
    conditional = {*SAFETY} - UNIVERSAL
    assert conditional <= {law for each in found for law in each.expect.always}


def test_late_finish_is_held_past_the_lease_but_not_past_the_statement_timeout() -> None:
    late = scenarios.find("late_finish")
    (held,), settings = late.faults, late.settings()
    assert held.for_seconds is not None
    # Marked dead after the lease plus one poll of a scheduler, both well within the hold.
    assert held.for_seconds > settings.lease_seconds + settings.heartbeat_seconds
    assert held.for_seconds < settings.statement_timeout_seconds
    assert late.workload.handler_seconds[1] < settings.lease_seconds


def test_settings_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LEASE_SECONDS", "99")
    monkeypatch.setenv("HOLDFAST_MAX_LOSSES", "99")
    settings = scenarios.find("calm").settings()
    assert (settings.lease_seconds, settings.max_losses) == (3, 3)


def test_targets_match_in_a_fixed_order() -> None:
    spike = scenarios.find("database_latency").faults[1]
    topology = scenarios.find("database_latency").topology
    assert spike.fault_ids == ("spike#1", "spike#2")
    assert spike.candidates(topology) == (
        "scheduler-1->postgres",
        "scheduler-2->postgres",
        "worker-1->postgres",
    )
    assert "client->api-1" in topology.edges
    assert "worker-3->sink" in topology.edges
    assert "scheduler-2->collector" in topology.edges


def test_wildcard_edges_do_not_include_the_collector() -> None:
    topology = scenarios.find("calm").topology

    def matched(*patterns: str) -> set[str]:
        plan = FaultSpec.model_validate({"fault": "down", "target": patterns, "at": 0})
        assert plan.unmatched(topology) == ()
        return set(plan.candidates(topology))

    assert matched("worker-1->*") == {f"worker-1->{name}" for name in ("postgres", "redis", "sink")}
    assert not {edge for edge in matched("*->*") if edge.endswith("->collector")}
    assert matched("worker-*->collector") == {f"worker-{n}->collector" for n in (1, 2, 3)}
    assert len(matched("*->collector")) == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pick: 1", "pik: 1", "faults.0.pik: no such key (did you mean pick?); allowed: name,"),
        ("fault: kill", "fault: kil", "faults.0.fault: kil: no such fault (did you mean kill?)"),
        ("target: worker-*", "target: wrker-*", "faults.0.target: wrker-*: 0 targets match"),
        ("pick: 1", "pick: 4", "3 targets match, 4 needed"),
        ("lease_seconds", "lease_second", "lease_second: no such setting (did you mean lease_s"),
        ("lease_seconds: 3", "lease_seconds: 2", "must be at most a third of"),
        (
            "lease_seconds: 3",
            "lease_seconds: -1",
            "topology.settings.lease_seconds: Input should be",
        ),
        ("tasks: 240", "tasks: many", "workload.tasks: Input should be a valid integer"),
        ("tasks: 240", "tusks: 240", "workload.tusks: no such key (did you mean tasks?)"),
        ("S13]", "S14]", "expect.always: S14 is not known here"),
        ("S13]", "L1]", "expect.always: L1 is not known here"),
        ("L2: 6", "L9: 6", "expect.eventually: L9 is not known here"),
        ("L2: 6", "L5: computed", "expect.eventually: L5 is a share of a rate, such as 0.9"),
        ("lease_lost", "lease_lots", "lease_lots is not known here (did you mean lease_lost?)"),
        ("every: 2.2", "", "every and times (> 1) go together"),
        ("at: 1.5", "", "give either at:"),
        ("at: 1.5", "after: {event: claimd}", "claimd: no such event (did you mean claimed?)"),
        ("at: 1.5", "after: {event: claimed}\n    at: 1", "give either at:"),
        ("    for: 0.7", "", "needs for:"),
        ("for: 0.7", "for: 0.7\n    until: {event: lots}", "until.event: lots: no such event"),
        ("pick: 1", "attributes: {latency: 1}", "latency is none of kill's; allowed: nothing"),
        ("fault: kill", "fault: flush", "worker-*: flush applies to a server"),
        ("fault: kill", "fault: down", "worker-*: down applies to an edge"),
        ("id: workers_killed", "id: Workers", "id: String should match pattern"),
        ("id: workers_killed", "id: a\nid: b", "key 'id' appears twice"),
        ("hypothesis:", "hypotesis:", "hypotesis: no such key (did you mean hypothesis?)"),
        ("[0.2, 0.8]", "[0.8, 0.2]", "handler_seconds: [least, most], not [0.8, 0.2]"),
        ("[0.2, 0.8]", "[0.2, 9]", "handler_seconds must stay below timeout_seconds"),
        ("failures: [1, 3]", "failures: [1, 5]", "would use up all max_attempts=5"),
        ("[W18, W25, W26, W42]", "[W18", "expected ',' or ']'"),
        ("batch: 4", "batch: 1001", "workload.batch: Input should be less than"),
        ("tasks: 240", "tasks: 240\n  poison: 241", "workload: poison: 241 of only 240 tasks"),
        (
            "tasks: 240",
            "tasks: 240\n  due_between: [1, 2]",
            "workload: due_between is for all tasks: it goes without later",
        ),
        (
            "tasks: 240",
            "tasks: 240\n  due_between: [2, 1]",
            "workload.due_between: [least, most], not [2, 1]",
        ),
        (
            "topology:\n",
            "topology:\n  knows: {worker-4: [sql]}\n",
            "topology: knows: worker-4: no such worker (did you mean worker-3?); allowed: worker-1",
        ),
        (
            "topology:\n",
            "topology:\n  knows: {worker-1: [sqll]}\n",
            "topology.knows.worker-1.0: Input should be 'ledger', 'sql' or 'external', not 'sqll'",
        ),
        (
            "topology:\n",
            "topology:\n  knows: {worker-1: []}\n",
            "topology: knows: worker-1: at least one kind",
        ),
        (
            "topology:\n",
            "survivors: {workers: 4}\ntopology:\n",
            "survivors.workers: there may be only 3",
        ),
        (
            "target: worker-*",
            'target: ["worker-*", scheduler-3]',
            "faults.0.target: scheduler-3: 0 targets match",
        ),
        ("target: worker-*", "target: []", "faults.0.target: Tuple should have at least 1 item"),
        (
            "target: worker-*",
            "target: [worker-1, redis]",
            "worker-1, redis: kill is a fault of postgres",
        ),
    ],
)
def test_scenario_mistake_is_explained(old: str, new: str, message: str) -> None:
    text = (SCENARIOS / "workers_killed.yaml").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(ScenarioError) as caught:
        scenarios.parse(text.replace(old, new, 1), "file.yaml")
    assert str(caught.value).startswith("file.yaml: ")
    assert message in str(caught.value)


def with_fault(fault: str) -> str:
    return f"""
id: one
hypothesis: One fault is planned, written down by hand.
workload: {{tasks: 1, seconds: 1}}
faults:
  - {fault}
"""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("{fault: latency, target: worker-1->redis, at: 1}", "latency needs latency"),
        (
            "{fault: latency, target: worker-1->redis, at: 1, attributes: {latencyy: 1}}",
            "latencyy is none of latency's (did you mean latency?)",
        ),
        (
            "{fault: latency, target: worker-1->redis, at: 1, attributes: {latency: 1, jitter: 1}}",
            "jitter is none of latency's",
        ),
        (
            "{fault: down, target: worker-1->redis, at: 1, until: {event: lost}}",
            "a fault with until needs for",
        ),
        ("{fault: flush, target: postgres, at: 1}", "flush is a fault of redis"),
        ("{fault: terminate_backends, target: redis, at: 1}", "is a fault of postgres"),
        ("{fault: terminate, target: redis, at: 1}", "terminate applies to a process"),
        (
            "{fault: skew, target: postgres, at: 1, attributes: {seconds: 1}}",
            "skew applies to a process",
        ),
        ("{fault: skew, target: worker-1, at: 1}", "attributes: skew needs seconds"),
        ("{fault: exhaust, target: redis, at: 1}", "exhaust is a fault of postgres"),
        ("{fault: exhaust, target: worker-1, at: 1}", "exhaust applies to a server"),
        ("{fault: kill, target: worker-1->redis, at: 1}", "kill applies to a process"),
        (
            "{fault: down, target: worker-1->redis, at: 1, every: 2, times: 3, for: 2}",
            "must end before the next injection",
        ),
    ],
)
def test_impossible_fault_is_refused(fault: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenarios.parse(with_fault(fault), "one.yaml")
    assert message in str(caught.value)


def test_every_fault_of_the_vocabulary_can_be_planned() -> None:
    targets = {TargetKind.EDGE: "worker-1->redis", TargetKind.PROCESS: "worker-*"}
    for name, kind in FAULTS.items():
        server = sorted(kind.servers)[:1]
        for target in [
            targets.get(each, server[0] if server else "") for each in kind.target_kinds
        ]:
            attributes = ", ".join(f"{attribute}: 1" for attribute in kind.attributes)
            line = f"{{fault: {name}, target: {target}, at: 1, attributes: {{{attributes}}}}}"
            scenario = scenarios.parse(with_fault(line), "one.yaml")
            assert scenario.faults[0].fault_ids == (f"{name}-1#1",)


def test_id_must_match_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(with_fault("{fault: down, target: worker-1->redis, at: 1}"), encoding="utf-8")
    with pytest.raises(ScenarioError, match="must be the name of the file, other"):
        scenarios.find(str(path))


def test_unknown_scenario_is_reported_with_a_suggestion() -> None:
    with pytest.raises(ScenarioError, match=r"no scenario 'clam' \(did you mean calm\?\)"):
        scenarios.find("clam")


def test_tutorial_scenario_is_valid() -> None:
    readme = (SCENARIOS.parent / "README.md").read_text(encoding="utf-8")
    (tutorial,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    found = scenarios.parse(tutorial, "deaf_receiver.yaml")
    assert found.id == "deaf_receiver"
    with pytest.raises(ScenarioError, match=r"faults\.0\.target: worker->sink: 0 targets match"):
        scenarios.parse(tutorial.replace("worker-*->sink", "worker->sink"), "deaf_receiver.yaml")
