"""Each alert fires in the run in which everything breaks; none fires in the calm one."""

from __future__ import annotations

import pytest
import yaml
from prometheus_server import CONFIG

from .conftest import TARGETS, Story

RULES = yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"][0]["rules"]
FIRING = 'ALERTS{alertstate="firing"}'
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]


def test_nothing_fires_while_all_is_calm(story: Story) -> None:
    assert story.calm.verdict == "true"
    server = story.prometheus
    fired = server.range(FIRING, story.calm.start, story.calm.end)
    assert [series["metric"] for series in fired] == []
    # It was looked at, by all rules, and there was something to see.
    seen = server.range('sum(up{job=~"holdfast-.*"})', story.calm.start, story.calm.end)
    assert max(float(value) for _, value in seen[0]["values"]) == TARGETS
    claimed = server.instant("sum(holdfast_attempts_claimed_total)", story.calm.end)
    assert float(claimed[0]["value"][1]) > 100


@pytest.mark.parametrize("name", ALERTS)
def test_it_fires_when_its_trouble_is_there(story: Story, name: str) -> None:
    query = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    assert story.prometheus.range(query, story.broken.start, story.broken.end)


def test_the_run_in_which_everything_broke_did_no_harm(story: Story) -> None:
    assert story.broken.verdict != "false"


@pytest.mark.parametrize("rule", RULES, ids=ALERTS)
def test_every_alert_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert len(rule["annotations"]["summary"]) > 20
    assert len(rule["annotations"]["runbook"]) > 100
