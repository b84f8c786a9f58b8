"""Clients that submit a task under a key of its own, again and again until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

_REQUEST_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
_HANDLER_SECONDS = 0.2


@dataclass(slots=True)
class Load:
    """Submits tasks at ``rate`` per second. ``accepted``: the ids of those that were answered with
    201 or 200, with the moment of the last answer by the loop's clock.

    ``refused`` holds the first answers that were neither, nor a status 5xx.
    """

    api_url: str
    rate: float
    run_id: str
    accepted: dict[str, str] = field(default_factory=dict)
    answered_at: float = 0.0
    refused: list[str] = field(default_factory=list)
    sent: int = 0
    _ended: bool = False
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Submit during the block, until ``end``; whatever is unanswered is repeated."""
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
        async with httpx.AsyncClient(
            base_url=self.api_url, trust_env=False, timeout=_REQUEST_SECONDS, limits=limits
        ) as client:
            source = asyncio.create_task(self._submit_all(client))
            try:
                yield
            finally:
                for task in (source, *self._open):
                    task.cancel()
                await asyncio.gather(source, *self._open, return_exceptions=True)

    def end(self) -> None:
        """Submit no further tasks."""
        self._ended = True

    @property
    def unanswered(self) -> int:
        """How many submits have no answer yet."""
        return len(self._open)

    async def _submit_all(self, client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in count():
            await asyncio.sleep(began + number / self.rate - loop.time())
            if self._ended:
                return
            task = loop.create_task(self._submit(client, number))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            self.sent += 1

    async def _submit(self, client: httpx.AsyncClient, number: int) -> None:
        """Send the same request until it is answered for good."""
        key = f"torture-{self.run_id}-{number}"
        payload = {"number": number, "seconds": _HANDLER_SECONDS, "steps": []}
        body: dict[str, Any] = {"name": "chaos_sql", "payload": payload, "idempotency_key": key}
        while True:
            try:
                answer = await client.post("/tasks/", json=body)
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code in {200, 201}:
                self.accepted[key] = answer.json()["id"]
                self.answered_at = asyncio.get_running_loop().time()
                return
            if answer is not None and answer.status_code < 500:
                self.refused.append(f"{answer.status_code} {answer.text[:200]}")
                return
            await asyncio.sleep(_PAUSE_SECONDS)
