"""Read the steps of a payload: what each attempt is told to do (``chaos.tasks.attempt``). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What ends an attempt without success, and what ends it by its timeout.
FAILING = frozenset({"fail", "fail_late", "unstorable", "retry", "discard", "hang", "kill"})
TIMING_OUT = frozenset({"hang", "swallow"})
# What a step may ask for that no result may be (``chaos.tasks.attempt``).
UNSTORABLE = ("nan", "surrogate", "nul", "large", "object")


def step_of(payload: Mapping[str, Any], attempt: int) -> Mapping[str, Any]:
    """Return the step of an attempt, counted from 1; empty if it has none."""
    steps = payload.get("steps", ())
    return steps[attempt - 1] if 1 <= attempt <= len(steps) else {}


def does(payload: Mapping[str, Any], attempt: int) -> str | None:
    """Return what an attempt is told to do (``do`` of its step); None: only to have its effect."""
    return step_of(payload, attempt).get("do")
