"""Counters of what an edge carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Counters of one stream of an edge. A message split by a toxic arrives as several."""

    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    dropped_messages: int = 0  # swallowed by a toxic, or held by one to the end
    slowed_messages: int = 0  # by a toxic: delayed, cut, or held back so far
