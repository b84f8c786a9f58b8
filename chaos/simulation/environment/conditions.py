"""The conditions of a topology (``chaos.scenario.conditions``), simulated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from chaos.history.records import ArenaName, Sometimes
from chaos.nemesis.late_servers import Waiting, wait_without_servers
from chaos.observers.conditions import cancellation, default_isolation, redis_users
from chaos.scenario.conditions import STATEMENT_TIMEOUT_MS
from chaos.scenario.fit import require_fit
from chaos.scenario.scenario import Scenario
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.postgres import ExecutedStatement, PostgresNode
from chaos.simulation.valkey import ValkeyNode

Evidence = dict[str, Any]
Probe = Callable[[str], Awaitable[Evidence]]

_ROLES = ("api", "scheduler", "worker")
_SEEN = {"57014": "statement_cancelled", "40001": "serialization_failed"}


class SimulatedConditions:
    """Arranges the conditions of one run and looks at them."""

    def __init__(
        self, scenario: Scenario, loop: SimulationLoop, postgres: PostgresNode, valkey: ValkeyNode
    ) -> None:
        require_fit(scenario, ArenaName.SIMULATION)
        self._environment = scenario.topology.environment
        self._loop = loop
        self._postgres = postgres
        self._valkey = valkey
        self._slow_start: Evidence = {}
        self._failed = dict.fromkeys(_SEEN, 0)
        postgres.listeners.append(self._count)

    def arrange(self) -> None:
        """Configure the servers and start them, unless they come later (``start_late``)."""
        if "serializable" in self._environment:
            self._postgres.postgres.isolate("serializable")
        if "statement_timeout" in self._environment:
            self._postgres.statement_timeout_seconds = STATEMENT_TIMEOUT_MS / 1000
        if "redis_acl" in self._environment:
            self._valkey.restrict()
        if "slow_start" not in self._environment:
            self._start_servers()

    async def start_late(self, roles: Collection[Waiting]) -> None:
        """Start the servers once all ``roles`` wait for them, if that is a condition."""
        if "slow_start" in self._environment:
            self._slow_start = await wait_without_servers(roles)
            self._start_servers()

    async def shown(self, role: str) -> dict[str, Evidence]:
        """Return what shows each condition; over the edges of ``role``."""
        looks: dict[str, Callable[[], Awaitable[Evidence]]] = {
            "serializable": lambda: self._beside(role, default_isolation),
            "statement_timeout": lambda: self._beside(role, cancellation),
            "redis_acl": self._redis_users,
        }
        found = {name: await look() for name, look in looks.items() if name in self._environment}
        return found | ({"slow_start": self._slow_start} if self._slow_start else {})

    def observations(self) -> list[Sometimes]:
        """Return which errors roles got from Postgres."""
        return [
            Sometimes(
                name=name, held=self._failed[code] > 0, evidence={"times": self._failed[code]}
            )
            for code, name in _SEEN.items()
        ]

    def _start_servers(self) -> None:
        self._loop.start("postgres", self._postgres.main)
        self._loop.start("redis", self._valkey.main)

    async def _redis_users(self) -> Evidence:
        return redis_users((await self._valkey.ask(b"CLIENT", b"LIST")).decode())

    async def _beside(self, role: str, probe: Probe) -> Evidence:
        """Run a probe of Postgres as another process on the host of ``role``."""
        found: Evidence = {}

        async def main() -> None:
            found.update(await probe(self._postgres.url()))

        node = self._loop.start(role, main)
        if await node.wait() != 0:
            return {"error": node.output[-1] if node.output else "no output"}
        return found

    def _count(self, statement: ExecutedStatement) -> None:
        if statement.outcome in self._failed and statement.client.partition("-")[0] in _ROLES:
            self._failed[statement.outcome] += 1
