"""Scenario files: those that come along are sound, and mistakes are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import scenario as scenarios
from chaos.scenario import SCENARIOS, Scenario, ScenarioError
from chaos.vocabulary import FAULTS, FaultSort

SHIPPED = (
    "calm",
    "database_latency",
    "late_finish",
    "redis_partition",
    "workers_killed",
    "zombie_worker",
)


def test_the_six_come_along_and_the_control_is_first() -> None:
    assert scenarios.names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_is_sound(name: str) -> None:
    scenario = scenarios.find(name)
    assert Scenario.model_validate(scenario.document) == scenario
    assert len(scenario.expect.always) == 12
    assert "L1" in scenario.expect.eventually
    settings = scenario.settings(label="worker-1")
    assert settings.lease_seconds == 3
    assert settings.label == "worker-1"
    for plan in scenario.faults:
        # Struck while the load runs, so that tasks are in flight.
        assert plan.after is not None or (plan.at or 0) < scenario.workload.seconds
        assert plan.candidates(scenario.topology)


def test_a_finish_is_held_past_the_lease_but_not_past_its_senders_patience() -> None:
    late = scenarios.find("late_finish")
    (held,), settings = late.faults, late.settings()
    assert held.for_seconds is not None
    # Marked dead at the latest: lease, then a look of a scheduler; both well within the hold.
    assert held.for_seconds > settings.lease_seconds + settings.heartbeat_seconds
    assert held.for_seconds < settings.statement_timeout_seconds
    assert late.workload.handler_seconds[1] < settings.lease_seconds


def test_settings_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LEASE_SECONDS", "99")
    monkeypatch.setenv("HOLDFAST_MAX_LOSSES", "99")
    settings = scenarios.find("calm").settings()
    assert (settings.lease_seconds, settings.max_losses) == (3, 3)


def test_targets_are_matched_in_a_fixed_order() -> None:
    spike = scenarios.find("database_latency").faults[1]
    topology = scenarios.find("database_latency").topology
    assert spike.strikes == ("spike#1", "spike#2")
    assert spike.candidates(topology) == (
        "scheduler-1->postgres",
        "scheduler-2->postgres",
        "worker-1->postgres",
    )
    assert "client->api-1" in topology.edges
    assert "worker-3->sink" in topology.edges


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
        ("S12]", "S13]", "expect.always: S13 is not known here"),
        ("S12]", "L1]", "expect.always: L1 is not known here"),
        ("L2: 6", "L9: 6", "expect.eventually: L9 is not known here"),
        ("lease_lost", "lease_lots", "lease_lots is not known here (did you mean lease_lost?)"),
        ("every: 2.2", "", "every and times (> 1) go together"),
        ("at: 1.5", "", "give either at:"),
        ("at: 1.5", "after: {event: claimd}", "claimd: no such event (did you mean claimed?)"),
        ("at: 1.5", "after: {event: claimed}\n    at: 1", "give either at:"),
        ("    for: 0.7", "", "needs for:"),
        ("for: 0.7", "for: 0.7\n    until: {event: lots}", "until.event: lots: no such event"),
        ("pick: 1", "attributes: {latency: 1}", "latency is none of kill's; allowed: nothing"),
        ("fault: kill", "fault: flush", "worker-*: flush strikes a server"),
        ("fault: kill", "fault: down", "worker-*: down strikes an edge"),
        ("id: workers_killed", "id: Workers", "id: String should match pattern"),
        ("id: workers_killed", "id: a\nid: b", "key 'id' stands twice"),
        ("hypothesis:", "hypotesis:", "hypotesis: no such key (did you mean hypothesis?)"),
        ("[0.2, 0.8]", "[0.8, 0.2]", "handler_seconds: [least, most], not [0.8, 0.2]"),
        ("[0.2, 0.8]", "[0.2, 9]", "handler_seconds must stay below timeout_seconds"),
        ("failures: [1, 2]", "failures: [1, 5]", "would use up all max_attempts=5"),
        ("[W18, W25, W26]", "[W18", "expected ',' or ']'"),
    ],
)
def test_a_mistake_is_explained(old: str, new: str, message: str) -> None:
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
        ("{fault: pause, target: redis, at: 1}", "pause strikes a process"),
        ("{fault: kill, target: worker-1->redis, at: 1}", "kill strikes a process"),
        (
            "{fault: down, target: worker-1->redis, at: 1, every: 2, times: 3, for: 2}",
            "must end before the next strike",
        ),
    ],
)
def test_a_fault_that_cannot_be_is_refused(fault: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenarios.parse(with_fault(fault), "one.yaml")
    assert message in str(caught.value)


def test_every_fault_of_the_vocabulary_can_be_planned() -> None:
    targets = {FaultSort.EDGE: "worker-1->redis", FaultSort.PROCESS: "worker-*"}
    for name, kind in FAULTS.items():
        server = sorted(kind.servers)[:1]
        for target in [targets.get(sort, server[0] if server else "") for sort in kind.sorts]:
            attributes = ", ".join(f"{attribute}: 1" for attribute in kind.attributes)
            line = f"{{fault: {name}, target: {target}, at: 1, attributes: {{{attributes}}}}}"
            scenario = scenarios.parse(with_fault(line), "one.yaml")
            assert scenario.faults[0].strikes == (f"{name}-1#1",)


def test_a_name_must_be_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(with_fault("{fault: down, target: worker-1->redis, at: 1}"), encoding="utf-8")
    with pytest.raises(ScenarioError, match="must be the name of the file, other"):
        scenarios.find(str(path))


def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    with pytest.raises(ScenarioError, match=r"no scenario 'clam' \(did you mean calm\?\)"):
        scenarios.find("clam")
