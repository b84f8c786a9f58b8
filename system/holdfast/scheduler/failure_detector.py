"""Decide when a scheduler may treat an expired lease as a dead worker."""

from __future__ import annotations

from datetime import datetime

_CLOCK_JUMP_SECONDS = 1.0


class FailureDetector:
    """Trusts expired leases only after ``needed_seconds`` of observation without a gap.

    After a pause of the scheduler, an outage of Postgres or a jump of the database's clock, all
    leases appear expired simultaneously. Live workers then need a heartbeat or two to renew theirs
    before any may be marked dead.
    """

    def __init__(self, *, needed_seconds: float, gap_seconds: float) -> None:
        self._needed_seconds = needed_seconds
        self._gap_seconds = gap_seconds
        self._since: float | None = None
        self._answered = 0.0
        self._clocks: tuple[float, datetime] | None = None

    def tick(self, now: float, database_now: datetime) -> bool:
        """Record a reading of both clocks; return whether expired leases may be trusted.

        ``now`` is in monotonic seconds.
        """
        self.answered(now)
        if self._clocks is not None:
            jump = abs((database_now - self._clocks[1]).total_seconds() - (now - self._clocks[0]))
            if jump > _CLOCK_JUMP_SECONDS:
                self._since = None
        if self._since is None:
            self._since = now
        self._clocks = (now, database_now)
        return now - self._since >= self._needed_seconds

    def answered(self, now: float) -> None:
        """Record that Postgres answered at ``now``: a slow Postgres is not an outage."""
        if now - self._answered > self._gap_seconds:
            self._since = None
        self._answered = now
