"""The time of an attempt: it begins with the handler's first line, not with the claim."""

from __future__ import annotations

from collections.abc import Callable


class TimeLimit:
    """Counts down ``seconds`` from ``begin``; before that the whole time is left.

    An answer to a claim may be late, and a plain function may wait for a thread: neither is the
    handler's time. ``claimed``: when the attempt was claimed or shortly before, never after, by
    ``clock`` (``time`` of the event loop).
    """

    __slots__ = ("_began", "_claimed", "_clock", "seconds")

    def __init__(self, seconds: float, *, clock: Callable[[], float], claimed: float) -> None:
        self.seconds = seconds
        self._clock = clock
        self._claimed = claimed
        self._began: float | None = None

    def begin(self) -> None:
        """Start the countdown."""
        self._began = self._clock()

    def late_seconds(self) -> float:
        """Return how long after the claim the handler began; until then, how late it is now."""
        return (self._clock() if self._began is None else self._began) - self._claimed

    def remaining_seconds(self) -> float:
        """Return the seconds that are left, at least 0."""
        if self._began is None:
            return self.seconds
        return max(0.0, self._began + self.seconds - self._clock())
