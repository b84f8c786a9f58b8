"""The metrics endpoint of a run: its processes and its active faults, for Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import httpx

from chaos.history.records import Fault
from chaos.live.metrics_endpoint import exposed

PORTS = {"api-1": 4001, "worker-2": 4002}


def fault(kind: Literal["start", "felt", "end"], fault_id: str = "f#1") -> Fault:
    return Fault(type=kind, fault_id=fault_id, fault="kill", targets=("worker-1", "api-1"), at=1.0)


def active(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line.startswith("holdfast_chaos_fault_active")]
    return dict(line.rsplit(" ", 1) for line in lines)


async def test_processes_and_faults_are_exposed_during_the_run(tmp_path: Path) -> None:
    targets = tmp_path / "new" / "run.json"
    worker = 'holdfast_chaos_fault_active{fault="kill",target="worker-1"}'
    async with exposed(targets, PORTS) as count_fault, httpx.AsyncClient() as client:
        api, role, harness = json.loads(targets.read_text())
        assert api == {
            "targets": ["127.0.0.1:4001"],
            "labels": {"job": "holdfast-api", "instance": "api-1"},
        }
        assert role["labels"] == {"job": "holdfast-worker", "instance": "worker-2"}
        url = f"http://{harness['targets'][0]}/metrics"
        assert active((await client.get(url)).text) == {}
        for record in (fault("start"), fault("felt"), fault("start", "f#2")):
            count_fault(record)
        assert active((await client.get(url)).text)[worker] == "2.0"
        count_fault(fault("end"))
        count_fault(fault("end", "f#2"))
        text = (await client.get(url, headers={"Accept": "application/openmetrics-text"})).text
        assert active(text)[worker] == "0.0"
        assert text.endswith("# EOF\n")
    assert list(targets.parent.iterdir()) == []


async def test_nothing_is_served_without_a_targets_file(tmp_path: Path) -> None:
    async with exposed(None, PORTS) as count_fault:
        count_fault(fault("start"))
    assert list(tmp_path.iterdir()) == []
