"""Make the override of the compose file for the scenario of one run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from chaos.compose.edges import port
from chaos.mutants import SOURCES
from chaos.observers import otlp
from chaos.scenario.operations import EFFECTS
from chaos.scenario.scenario import Scenario
from chaos.tasks.external import SINK_URL

COMPOSE_FILE = SOURCES / "docker-compose.yml"
# The services of every run besides its roles, as the compose file names them.
HELPERS = ("chaos-postgres", "chaos-redis", "toxiproxy", "socket-stats", "sink", "collector")
# The only client edge that the compose file itself publishes.
_FIRST = "client->api-1"
# Compose inserts the password.
_POSTGRES = "postgresql://holdfast:${{POSTGRES_PASSWORD}}@toxiproxy:{port}/holdfast"


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file, with anchors but not variables resolved."""
    document = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def override(scenario: Scenario, api_ports: Mapping[str, int]) -> dict[str, Any]:
    """Return the document that adapts the compose file to ``scenario``.

    Roles that the file has get their settings; roles beyond those are copies of the first of their
    kind. ``api_ports``: on which port of this machine each ``client->api-N`` is published.
    """
    known = services()
    topology = scenario.topology
    made: dict[str, dict[str, Any]] = {}
    for name in topology.processes:
        change: dict[str, Any] = {"environment": environment(name, scenario)}
        if name not in known:
            pattern = copy.deepcopy(known[f"{name.partition('-')[0]}-1"])
            change = pattern | {"environment": pattern["environment"] | change["environment"]}
        if name in topology.knows:
            change["command"] = ["worker", *_apps(topology.knows[name])]
        made[name] = change
    more = [f"127.0.0.1:{host}:{port(edge)}" for edge, host in api_ports.items() if edge != _FIRST]
    if more:
        made["toxiproxy"] = {"ports": more}
    return {"services": made}


def environment(name: str, scenario: Scenario) -> dict[str, str]:
    """Return a role's variables: the scenario's settings, and the addresses of its proxies."""
    settings = {
        f"HOLDFAST_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
        for key, value in otlp.trace_settings(scenario.topology.settings).items()
    }
    own = {
        "HOLDFAST_LABEL": name,
        "HOLDFAST_KNOWN_QUEUES": json.dumps(scenario.unread_queues),
        "HOLDFAST_API_KEYS": json.dumps(scenario.workload.api_keys),
        "HOLDFAST_DATABASE_URL": _POSTGRES.format(port=port(f"{name}->postgres")),
        "HOLDFAST_REDIS_URL": f"redis://toxiproxy:{port(f'{name}->redis')}/0",
        "HOLDFAST_OTLP_ENDPOINT": f"http://toxiproxy:{port(f'{name}->collector')}",
    }
    if name.startswith("worker-"):
        own["HOLDFAST_QUEUES"] = json.dumps(scenario.queues_of(name))
        own[SINK_URL] = f"http://toxiproxy:{port(f'{name}->sink')}"
    return settings | own


def _apps(kinds: tuple[str, ...] = EFFECTS) -> list[str]:
    return [word for kind in kinds for word in ("--app", f"chaos.tasks.{kind}")]


def write(document: Mapping[str, Any], file: Path) -> None:
    """Write the document for compose."""
    file.write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
