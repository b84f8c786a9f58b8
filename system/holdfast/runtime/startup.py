"""Wait at the start of a role for a server that is away, instead of exiting.

A role that exits is restarted with growing pauses, and would come back long after the server did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from holdfast.errors import OutcomeUnknown, Unavailable
from holdfast.runtime.supervision import wait_for_event
from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.log_limit import LogLimit
from holdfast.telemetry.logs import Logger

_RETRY_SECONDS = 1.0
_LOG_SECONDS = 30.0


class Startup:
    """Repeats a check until it passes. ``stopping`` is set by ``stop``, which ends the wait."""

    def __init__(self, check: Callable[[], Awaitable[None]], log: Logger) -> None:
        self.stopping = asyncio.Event()
        self._check = check
        self._log = log
        self._limit = LogLimit(1, _LOG_SECONDS)
        self._passed = False
        self._reason = "not started"

    def stop(self) -> None:
        """End the wait."""
        self.stopping.set()

    def stalled(self) -> dict[str, str]:
        """Return what the role waits for, in the form of ``LoopSupervisor.stalled``."""
        return {} if self._passed else {"startup": self._reason}

    async def attempt(self) -> None:
        """Check once, unless it has passed; log at most every half minute that it has not.

        Raises:
            Misconfigured: waiting would not help.
        """
        if self._passed:
            return
        try:
            await self._check()
        except (Unavailable, OutcomeUnknown) as error:
            self._reason = str(error)
            if self._limit.admit() is not None:
                self._log.warning(
                    "Waiting for Postgres before starting",
                    event_name=EventName.STARTUP_WAITING,
                    error=error,
                )
        else:
            self._passed = True

    async def passed(self) -> bool:
        """Wait until the check passes; return False if ``stop`` comes first. Raises as it does."""
        await self.attempt()
        while not self._passed and not await wait_for_event(self.stopping, _RETRY_SECONDS):
            await self.attempt()
        return self._passed and not self.stopping.is_set()
