"""What a run needs of an arena in real time: a ground that all runs share, a stack for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from chaos.course import Stage
from chaos.live.clients import Clients
from chaos.scenario import Scenario
from chaos.sightings import SeenHint
from system.guardian import Reaper


@dataclass(frozen=True, slots=True)
class Site:
    """What a stack is made for, and where. ``scenario`` is a concrete one (``Scenario.drawn``).

    ``directory``: scratch of its own, not there yet; ``logs``: where the roles' logs end up.
    ``sources``: what the roles run, None: the ground's copy of ours. ``journal`` takes every change
    of a proxy and every end of a process.
    """

    scenario: Scenario
    directory: Path
    logs: Path
    sources: Path | None
    journal: Callable[[dict[str, Any]], None]
    clients: Clients


class Stack(Stage, Protocol):
    """A stage that can be started. ``hints``: those that were seen to reach Redis."""

    hints: list[SeenHint]

    @property
    def doors(self) -> Sequence[int]:
        """The ports where clients find the APIs, once it is up."""

    @property
    def probes(self) -> Mapping[str, int]:
        """The ports where roles serve ``/metrics``, of those that the harness can reach."""

    @property
    def redis_url(self) -> str:
        """Where the harness itself finds Redis, once it is up."""

    def environment(self) -> dict[str, str]:
        """Of the processes that the harness starts beside it."""

    def up(self) -> AbstractAsyncContextManager[object]:
        """All roles ready inside the block; nothing of it is left after it."""


class Ground(Protocol):
    """What all runs of a suite share."""

    reaper: Reaper
    directory: Path
    sources: Path

    @property
    def arena(self) -> Literal["live", "compose"]:
        """Its name."""

    def stack(self, site: Site) -> Stack:
        """The stack of one run, not started yet."""
