"""Define the interface of a peer. It runs in the peer's environment: standard library only.

A peer is a module ``NAME_peer`` in this folder, with

- ``PACKAGES``: packages whose versions the table shows
- ``SETTINGS``: "best" and "durable", each with a description of the settings; only "durable" if
  nothing is faster
- ``SUPERVISES``: True if one ``work`` process starts all worker processes
- ``prepare(config)``: creates schema and queues in an empty database and an empty Redis
- ``enqueue(config, count)``: stores ``count`` no-op tasks in the fastest documented way
- ``work(config)``: executes tasks until SIGTERM
- ``counter(config)``: returns a cheap function that counts the finished tasks
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

_DATABASE = "LOADTEST_PEER_DATABASE_URL"
_REDIS = "LOADTEST_PEER_REDIS_URL"
_SETTING = "LOADTEST_PEER_SETTING"
_COUNT = "LOADTEST_PEER_COUNT"
_WORKERS = "LOADTEST_PEER_WORKERS"


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Where and how a peer runs. ``count``: total tasks; ``workers``: total worker processes."""

    database_url: str
    redis_url: str
    setting: str
    count: int
    workers: int

    @property
    def durable(self) -> bool:
        return self.setting == "durable"

    def environment(self) -> dict[str, str]:
        """Return the variables from which ``from_environment`` restores it in another process."""
        return {
            _DATABASE: self.database_url,
            _REDIS: self.redis_url,
            _SETTING: self.setting,
            _COUNT: str(self.count),
            _WORKERS: str(self.workers),
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Create from the environment: some libraries must be configured on import."""
        return cls(
            database_url=environment.get(_DATABASE, ""),
            redis_url=environment.get(_REDIS, "redis://"),
            setting=environment.get(_SETTING, "durable"),
            count=int(environment.get(_COUNT, "0")),
            workers=int(environment.get(_WORKERS, "1")),
        )


class Peer(Protocol):
    """Contents of a peer's module."""

    PACKAGES: tuple[str, ...]
    SETTINGS: dict[str, str]
    SUPERVISES: bool

    def prepare(self, config: PeerConfig) -> None: ...
    def enqueue(self, config: PeerConfig, count: int) -> None: ...
    def work(self, config: PeerConfig) -> None: ...
    def counter(self, config: PeerConfig) -> Callable[[], int]: ...
