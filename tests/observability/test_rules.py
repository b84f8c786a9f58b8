"""promtool accepts the configuration, and the rules pass their unit tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_server import CONFIG, FACTOR, scaled

from holdfast.telemetry.metrics import Metrics
from observability.binaries import Prometheus

CASES = Path(__file__).with_name("alerts_test.yml")


def promtool(programs: Prometheus, *words: str, given: bytes | None = None) -> str:
    done = subprocess.run(
        [str(programs.promtool), *words], cwd=CONFIG, input=given, capture_output=True, check=False
    )
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def test_configuration_is_valid(programs: Prometheus) -> None:
    output = promtool(programs, "check", "config", "prometheus.yml")
    assert "1 rule files found" in output


def test_unit_tests_of_the_rules_pass(programs: Prometheus, tmp_path: Path) -> None:
    rules = yaml.safe_load((CONFIG / "alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]  # otherwise every case would repeat the runbook
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / CASES.name).write_text(CASES.read_text())
    assert "SUCCESS" in promtool(programs, "test", "rules", str(tmp_path / CASES.name))


def test_every_rule_has_a_firing_and_a_silent_case() -> None:
    rules = yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"][0]["rules"]
    names = {rule["alert"] for rule in rules}
    tests = yaml.safe_load(CASES.read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


@pytest.mark.parametrize("role", ["api", "scheduler", "worker"])
def test_metric_names_follow_the_conventions(programs: Prometheus, role: str) -> None:
    text, _ = Metrics(role).render()
    assert promtool(programs, "check", "metrics", given=text) == ""


def test_scaling_changes_only_durations(tmp_path: Path, programs: Prometheus) -> None:
    text = "for: 2m\n x[5m] offset 10m > 5 * 60 and y > 500 and status=~'5..'"
    assert FACTOR == 30
    assert scaled(text) == (
        "for: 4000ms\n x[10000ms] offset 20000ms > 5 * 60 / 30 and y > 500 and status=~'5..'"
    )
    rules = scaled((CONFIG / "alerts.yml").read_text())
    (tmp_path / "scaled.yml").write_text(rules)
    promtool(programs, "check", "rules", str(tmp_path / "scaled.yml"))
