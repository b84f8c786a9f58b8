"""Compare what users and dashboards depend on with golden files.

Covered: the OpenAPI document (without prose), the metrics of each role with types and labels, and
the spans with their attributes and outcomes. To accept a change, regenerate and read the diff::

    REGENERATE_GOLDEN=1 .venv/bin/python -m pytest tests/unit/test_golden.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from bench import Bench
from golden_traces import drive_every_transition
from otlp_receiver import Receiver

from holdfast.api.app import create_api
from holdfast.runtime.health import create_health
from holdfast.settings import Settings
from holdfast.telemetry.metrics import Metrics

_DIRECTORY = Path(__file__).with_name("golden")
_ENUMERATED = ("outcome", "reason", "answer", "state")  # attributes whose values are also compared
_PROSE = frozenset({"title", "summary", "description"})


def check(name: str, value: Any) -> None:
    """Compare ``value`` with the golden file of that name, or write the file."""
    path = _DIRECTORY / f"{name}.json"
    if os.environ.get("REGENERATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    assert json.dumps(value, indent=1, sort_keys=True) + "\n" == path.read_text()


def without_prose(node: Any) -> Any:
    """Drop texts for people; a property that is called ``title`` is an object and stays."""
    if isinstance(node, list):
        return [without_prose(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: without_prose(value)
        for key, value in node.items()
        if not (key in _PROSE and isinstance(value, str))
    }


@pytest.mark.parametrize("keys", [(), ("key",)], ids=["open", "keys"])
def test_openapi_document(settings: Settings, keys: tuple[str, ...]) -> None:
    changed = Settings(**{**settings.model_dump(), "api_keys": keys, "log_level": "ERROR"})
    document = create_api(changed).openapi()
    check("openapi_with_keys" if keys else "openapi", without_prose(document))


async def test_metrics_of_each_role(settings: Settings) -> None:
    quiet = settings.model_copy(update={"log_level": "ERROR"})
    apps = {role: create_health(dict, Metrics(role)) for role in ("scheduler", "worker")}
    shown = {}
    for role, app in {"api": create_api(quiet), **apps}.items():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://role") as client:
            text = (await client.get("/metrics")).text
        labels = labels_of(Metrics(role))
        types = (line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
        shown[role] = {
            name: {"type": kind, "labels": labels.get(name.removesuffix("_total"), [])}
            for name, kind in types
        }
    check("metrics", shown)


def labels_of(metrics: Metrics) -> dict[str, list[str]]:
    """Map each metric, without ``_total``, to its label names, whether or not it has samples."""
    found: dict[str, list[str]] = {}
    for collector, names in metrics.registry._collector_to_names.items():
        family = next(iter(getattr(collector, "describe", list)()), None)
        declared = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
        found |= {name.removesuffix("_total"): sorted(declared) for name in names}
    return found


async def test_spans_of_every_transition(traced: Bench, collector: Receiver) -> None:
    # A busy machine must not end attempts in other ways than the phases do.
    traced.settings = traced.quick(lease_seconds=60.0, timeout_grace_seconds=30.0)
    # Nor may it cut off the last export of a role.
    with (
        patch("holdfast.telemetry.export._CLOSE_SECONDS", 60.0),
        patch("holdfast.telemetry.otlp._ANSWER_SECONDS", 60.0),
    ):
        await drive_every_transition(traced, collector)
    shown: dict[str, Any] = {}
    for span in collector.spans:
        name = f"{span.service} {span.kind} {span.name}"
        entry = shown.setdefault(name, {"attributes": set(), "events": {}})
        entry["attributes"] |= set(span.attributes)
        for key in _ENUMERATED:
            if (value := span.attributes.get(f"holdfast.{key}")) is not None:
                entry.setdefault(key, set()).add(value)
        for event, attributes in span.events.items():
            entry["events"].setdefault(event, set()).update(attributes)
    for entry in shown.values():
        for key in ("attributes", *entry.keys() & _ENUMERATED):
            entry[key] = sorted(entry[key])
        entry["events"] = {name: sorted(keys) for name, keys in entry["events"].items()}
    check("spans", shown)
