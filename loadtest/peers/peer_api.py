"""Define the interface of a peer. It runs in the peer's environment: standard library only.

A peer is a module ``NAME_peer`` in this folder, with

- ``PACKAGES``: packages whose versions the table shows
- ``SETTINGS``: "best" and "durable", each with a description of the settings; only "durable" if
  nothing is faster
- ``SUPERVISES``: True if one ``work`` process starts all worker processes
- ``prepare(config)``: creates schema and queues in an empty database and an empty Redis
- ``enqueue(config, count)``: stores ``count`` tasks in the fastest documented way, each with its
  number and ``config.filler`` as payload
- ``work(config)``: executes tasks until SIGTERM
- ``counter(config)``: returns a cheap function that counts the finished tasks

A task does nothing, or has an effect if ``config.effect`` is set: the peer then needs ``EFFECT``,
which describes the settings it adds, an entry in ``REDELIVERY_SECONDS`` of peer_process.py, and a
handler that executes ``INSERT_PSYCOPG`` or ``INSERT_ASYNCPG`` in a transaction of its own with
``config.row(...)``: one row for each task, however often it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from loadtest.inserts import payload_filler

_DATABASE = "LOADTEST_PEER_DATABASE_URL"
_REDIS = "LOADTEST_PEER_REDIS_URL"
_SETTING = "LOADTEST_PEER_SETTING"
_COUNT = "LOADTEST_PEER_COUNT"
_WORKERS = "LOADTEST_PEER_WORKERS"
_PAYLOAD_BYTES = "LOADTEST_PEER_PAYLOAD_BYTES"
_EFFECT = "LOADTEST_PEER_EFFECT"

EFFECTS = "loadtest_effects"
_INSERT = f"INSERT INTO {EFFECTS} (number, filler) VALUES"
INSERT_PSYCOPG = f"{_INSERT} (%s, %s) ON CONFLICT DO NOTHING"
INSERT_ASYNCPG = f"{_INSERT} ($1, $2) ON CONFLICT DO NOTHING"


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Where and how a peer runs.

    ``count``: total tasks; ``workers``: processes that a ``work`` step starts if it supervises.
    ``effect``: what each task leaves in Postgres: "" for nothing, "ledger" for a row with its
    number, "transaction" for one with the filler of its payload, too.
    """

    database_url: str
    redis_url: str
    setting: str
    count: int
    workers: int
    payload_bytes: int = 256
    effect: str = ""

    @property
    def durable(self) -> bool:
        return self.setting == "durable"

    @property
    def filler(self) -> str:
        return payload_filler(self.payload_bytes)

    def row(self, number: int, filler: str) -> tuple[int, str]:
        """Return the values of the row that a task leaves."""
        return number, filler if self.effect == "transaction" else ""

    def environment(self) -> dict[str, str]:
        """Return the variables from which ``from_environment`` restores it in another process."""
        return {
            _DATABASE: self.database_url,
            _REDIS: self.redis_url,
            _SETTING: self.setting,
            _COUNT: str(self.count),
            _WORKERS: str(self.workers),
            _PAYLOAD_BYTES: str(self.payload_bytes),
            _EFFECT: self.effect,
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
            payload_bytes=int(environment.get(_PAYLOAD_BYTES, "0")),
            effect=environment.get(_EFFECT, ""),
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
