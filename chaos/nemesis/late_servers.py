"""Start the roles before their servers, and see that they wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any, Protocol

from chaos.scenario.conditions import SLOW_START_SECONDS

# Processes need a while until they listen, eight at a time on a crowded machine.
_LISTENING_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_NOT_READY = 503


class Waiting(Protocol):
    """A role that answers whether it is ready."""

    async def readiness(self) -> int | None:
        """Return the status of its /readyz; None without an answer."""


async def wait_without_servers(roles: Collection[Waiting]) -> dict[str, Any]:
    """Wait until all roles say that they are not ready, and a while longer; return the evidence.

    ``waiting``: how many of them still said so at the end.
    """
    began = time.monotonic()
    while await _waiting(roles) < len(roles) and time.monotonic() - began < _LISTENING_SECONDS:
        await asyncio.sleep(_LOOK_SECONDS)
    since = time.monotonic()
    await asyncio.sleep(SLOW_START_SECONDS)
    waiting = await _waiting(roles)
    seconds = round(time.monotonic() - since, 3)
    return {"roles": len(roles), "waiting": waiting, "seconds": seconds}


async def _waiting(roles: Collection[Waiting]) -> int:
    answers = await asyncio.gather(*(role.readiness() for role in roles))
    return answers.count(_NOT_READY)
