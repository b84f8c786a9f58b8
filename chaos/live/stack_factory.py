"""What the arenas in real time provide: a factory that all runs share, and a stack for each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chaos.live.clients import LocustProcess
from chaos.observers.logs import SeenHint
from chaos.run.runner import Environment
from chaos.scenario.scenario import Scenario
from holdfast.devstack.reaper import Reaper


@dataclass(frozen=True, slots=True)
class StackSpec:
    """What to build a stack from. ``scenario`` is a concrete one (``Scenario.drawn``).

    ``directory``: scratch of the stack, which it creates. ``logs``: where the roles' logs end up.
    ``sources``: what the roles run. ``journal`` takes every change of a proxy and every end of a
    process.
    """

    scenario: Scenario
    directory: Path
    logs: Path
    sources: Path
    journal: Callable[[dict[str, Any]], None]
    clients: LocustProcess


class StackEnvironment(Environment, Protocol):
    """An environment that can be started. ``hints``: those that were seen to reach Redis."""

    hints: list[SeenHint]

    @property
    def api_ports(self) -> Sequence[int]:
        """The ports where clients reach the APIs, once it is up."""

    @property
    def probes(self) -> Mapping[str, int]:
        """The ports of ``/metrics`` by role, of those that the harness can reach."""

    @property
    def redis_url(self) -> str:
        """The URL of Redis for the harness itself, once it is up."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the processes that the harness starts beside it."""

    def up(self) -> AbstractAsyncContextManager[object]:
        """Start it; all roles are ready inside the block, and everything is removed after it."""


class StackFactory(Protocol):
    """What all runs of a suite share. ``sources``: a copy of our packages."""

    reaper: Reaper
    directory: Path
    sources: Path

    def stack(self, spec: StackSpec) -> StackEnvironment:
        """Return the stack of one run, not started yet."""
