"""What a peer is told of where and how it runs. Read by its own interpreter: nothing but stdlib.

A peer is a module ``NAME_peer`` in this folder, with

- ``PACKAGES``: whose versions the table shows
- ``SETTINGS``: "best" and "durable", each with the settings in words; "durable" alone where there
  is nothing faster than that
- ``SUPERVISES``: True if one ``work`` starts all worker processes
- ``prepare(place)``: makes schema and queues, in an empty database and an empty Redis
- ``enqueue(place, count)``: stores ``count`` no-op tasks, the fastest documented way
- ``work(place)``: works until SIGTERM
- ``counter(place)``: returns a function that tells how many tasks are done, cheaply
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
    """``count``: tasks in all; ``workers``: worker processes in all."""

    database_url: str
    redis_url: str
    setting: str
    count: int
    workers: int

    @property
    def durable(self) -> bool:
        return self.setting == "durable"

    def environment(self) -> dict[str, str]:
        """For a process that shall find itself here."""
        return {
            _DATABASE: self.database_url,
            _REDIS: self.redis_url,
            _SETTING: self.setting,
            _COUNT: str(self.count),
            _WORKERS: str(self.workers),
        }

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As the environment says; some libraries want to be configured on import."""
        return cls(
            database_url=environment.get(_DATABASE, ""),
            redis_url=environment.get(_REDIS, "redis://"),
            setting=environment.get(_SETTING, "durable"),
            count=int(environment.get(_COUNT, "0")),
            workers=int(environment.get(_WORKERS, "1")),
        )


class Peer(Protocol):
    """What a module of a peer has."""

    PACKAGES: tuple[str, ...]
    SETTINGS: dict[str, str]
    SUPERVISES: bool

    def prepare(self, config: PeerConfig) -> None: ...
    def enqueue(self, config: PeerConfig, count: int) -> None: ...
    def work(self, config: PeerConfig) -> None: ...
    def counter(self, config: PeerConfig) -> Callable[[], int]: ...
