"""Every alert fires in the run with all faults; none fires in the calm run."""

from __future__ import annotations

import pytest
import yaml
from prometheus_server import CONFIG

from .conftest import TARGETS, Story

RULES = yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"][0]["rules"]
FIRING = 'ALERTS{alertstate="firing"}'
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]


def test_no_alert_fires_in_the_calm_run(story: Story) -> None:
    assert story.calm.verdict == "true"
    server = story.prometheus
    fired = server.range(FIRING, story.calm.start, story.calm.end)
    assert [series["metric"] for series in fired] == []
    # The rules were evaluated on real samples.
    seen = server.range('sum(up{job=~"holdfast-.*"})', story.calm.start, story.calm.end)
    assert max(float(value) for _, value in seen[0]["values"]) == TARGETS
    claimed = server.instant("sum(holdfast_attempts_claimed_total)", story.calm.end)
    assert float(claimed[0]["value"][1]) > 100


@pytest.mark.parametrize("name", ALERTS)
def test_alert_fires_under_its_fault(story: Story, name: str) -> None:
    query = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    assert story.prometheus.range(query, story.broken.start, story.broken.end)


def test_run_with_all_faults_violates_no_invariant(story: Story) -> None:
    assert story.broken.verdict != "false"


@pytest.mark.parametrize("rule", RULES, ids=ALERTS)
def test_every_alert_has_a_runbook(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert len(rule["annotations"]["summary"]) > 20
    assert len(rule["annotations"]["runbook"]) > 100
