"""When the next attempt is due after an attempt ended, or after a retry by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from chaos.checker.model.life import Ending
from chaos.tasks.declarations import Declaration


@dataclass(frozen=True, slots=True)
class Delay:
    """From the end of an attempt until the next is due: seconds, at least and at most."""

    earliest: float
    latest: float


# How much shorter a rest may be, so that the same worker does not get the task each time.
_REST_JITTER = 0.1
NOW = Delay(0.0, 0.0)


def after_end(
    end: Ending,
    *,
    declared: Declaration | None,
    failures: int,
    asked_seconds: float | None,
    by_scheduler: bool,
) -> Delay:
    """Return the delay after an attempt that ended so.

    ``failures``: those of the task, this one included. ``asked_seconds``: the delay that the end
    itself asks for, as ``Retry(after=...)`` does. ``declared`` None: the back-off is not known.
    """
    if asked_seconds is not None:
        return Delay(asked_seconds, asked_seconds)
    if end in {Ending.LOST, Ending.HANDED_BACK}:
        return NOW
    declares = back_off(declared, failures) if declared else Delay(0.0, math.inf)
    # That a scheduler ends it long after its timeout may stand for the delay.
    return Delay(0.0, declares.latest) if by_scheduler else declares


def back_off(declared: Declaration, failures: int) -> Delay:
    """Return the delay after the n-th failure: exponential, capped, minus a share of jitter.

    ``failures`` (>= 1) are those of the task alone: losses and releases do not raise it.
    """
    full = declared.base_seconds
    for _ in range(failures - 1):
        full = min(declared.max_seconds, full * declared.factor)
    full = min(declared.max_seconds, full)
    return Delay(full * (1 - declared.jitter), full)


def rest(first_seconds: float, longest_seconds: float, times: int) -> Delay:
    """Return the rest of a task after its n-th release by a worker that lacks its handler."""
    seconds = first_seconds
    for _ in range(times - 1):
        seconds = min(longest_seconds, 2 * seconds)
    full = min(longest_seconds, seconds)
    return Delay(full * (1 - _REST_JITTER), full)
