"""Every panel, annotation and variable of every dashboard has data after a real run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_server import CONFIG, SCRAPE_SECONDS

from .conftest import Story

GRAFANA = CONFIG.parent / "grafana"
BOARDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}
TITLES = [panel["title"] for panel in BOARDS["holdfast-overview"]["panels"]]
SOURCES = yaml.safe_load((GRAFANA / "datasources" / "datasources.yml").read_text())["datasources"]


def queries() -> Iterator[tuple[str, str]]:
    """Yield (owner, expression) of every Prometheus query in the dashboards."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']} ({target['refId']})", target["expr"]
        for annotation in board["annotations"]["list"]:
            yield f"{name}: annotation {annotation['name']}", annotation["expr"]


QUERIES = dict(queries())


def substituted(expression: str) -> str:
    """Substitute variables as Grafana does, with ``All`` selected."""
    interval = f"{8 * SCRAPE_SECONDS:.0f}s"
    return expression.replace("$__rate_interval", interval).replace("$queue", ".*")


@pytest.mark.parametrize("owner", QUERIES)
def test_query_has_data(story: Story, owner: str) -> None:
    query = substituted(QUERIES[owner])
    assert "$" not in query
    found = story.prometheus.range(query, story.broken.start, story.broken.end)
    numbers = [float(value) for series in found for _, value in series["values"]]
    assert [number for number in numbers if number == number], query  # noqa: PLR0124 (not NaN)


def test_faults_are_shown_while_they_are_active(story: Story) -> None:
    found = story.prometheus.range(
        "holdfast_chaos_fault_active > 0", story.broken.start, story.broken.end
    )
    seen = {(series["metric"]["fault"], series["metric"]["target"]) for series in found}
    assert {("pause", "worker-3"), ("kill", "postgres"), ("latency", "worker-1->postgres")} <= seen
    ended = story.prometheus.instant("sum(holdfast_chaos_fault_active)", story.broken.end - 1)
    assert float(ended[0]["value"][1]) == 0


def test_exemplars_carry_trace_ids(story: Story) -> None:
    for metric in ("task_start_delay", "task_queue_wait", "attempt_run", "task_duration"):
        name = f"holdfast_{metric}_seconds_bucket"
        found = story.prometheus.exemplars(name, story.broken.start, story.broken.end)
        labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
        assert labels, name
        assert all(re.fullmatch("[0-9a-f]{32}", label["trace_id"]) for label in labels)


def test_variables_have_values(story: Story) -> None:
    for board in BOARDS.values():
        for variable in board.get("templating", {}).get("list", []):
            query = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert query
            found = story.prometheus.range(query[1], story.broken.start, story.broken.end)
            assert "default" in {series["metric"][query[2]] for series in found}


@pytest.mark.parametrize("name", BOARDS)
def test_dashboard_is_well_formed(name: str) -> None:
    board: dict[str, Any] = BOARDS[name]
    assert board["uid"] == name
    known = {source["uid"] for source in SOURCES}
    used = set(re.findall(r'"uid": "(\w+)"', json.dumps(board["panels"])))
    assert used <= known
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        area = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not area & taken, f"{panel['title']} overlaps another panel"
        taken |= area


def test_panels_that_runbooks_name_exist() -> None:
    text = " ".join((CONFIG / "alerts.yml").read_text().split())
    named = set(re.findall(r'panel "([^"]+)"', text))
    assert named
    assert all(any(title.startswith(name) for title in TITLES) for name in named)


def test_exemplars_link_to_jaeger() -> None:
    links = SOURCES[0]["jsonData"]["exemplarTraceIdDestinations"]
    assert links == [{"name": "trace_id", "datasourceUid": SOURCES[1]["uid"]}]
