"""The ports and upstreams of the edges' proxies inside the stack.

A port identifies its edge: 20000, a hundred for each role (1 api, 2 scheduler, 3 worker), ten for
each number, and the dependency (0 clients, 1 postgres, 2 redis, 3 sink, 4 collector):
``worker-3->sink`` is 20333.
The compose file has these numbers in its text, and ``proxies.json`` is what ``configuration`` says
for the topology of that file: a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

HTTP_PORT = 8000
_ROLES = {"api": 1, "scheduler": 2, "worker": 3}
_CLIENT = "client"
_DEPENDENCIES = {_CLIENT: 0, "postgres": 1, "redis": 2, "sink": 3, "collector": 4}
_SERVERS = {
    "postgres": "chaos-postgres:5432",
    "redis": "chaos-redis:6379",
    "sink": f"sink:{HTTP_PORT}",
    "collector": f"collector:{HTTP_PORT}",
}


def port(edge: str) -> int:
    """Return the port of the proxy of ``edge``, in the network of Toxiproxy."""
    actor, _, dependency = edge.partition("->")
    process, kind = (dependency, _CLIENT) if actor == _CLIENT else (actor, dependency)
    role, _, number = process.partition("-")
    return 20000 + 100 * _ROLES[role] + 10 * int(number) + _DEPENDENCIES[kind]


def upstream(edge: str) -> str:
    """Return ``host:port`` of the upstream of ``edge``."""
    dependency = edge.partition("->")[2]
    return _SERVERS.get(dependency, f"{dependency}:{HTTP_PORT}")


def listen(edge: str) -> str:
    """Return ``host:port`` of the proxy itself."""
    return f"0.0.0.0:{port(edge)}"


def configuration(edges: Iterable[str]) -> list[dict[str, Any]]:
    """Return the configuration that Toxiproxy reads at its start."""
    return [
        {"name": edge, "listen": listen(edge), "upstream": upstream(edge), "enabled": True}
        for edge in edges
    ]
