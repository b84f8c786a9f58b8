"""Defines the records of what was read once a run is at rest, besides the answers of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from chaos.history.spans import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSample:
    """A sample of an exposition: a metric with its labels; ``value`` is finite."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """What a process said at /metrics; without the buckets of histograms.

    ``status``: of HTTP; 0: it did not answer. ``error``: why there are no ``samples``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["scrape"] = "scrape"
    actor: str
    at: float
    status: int
    error: str = ""
    samples: tuple[MetricSample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueHints:
    """The hints of a queue in Redis: entries of its stream, and those delivered but not acked."""

    queue: str
    entries: int
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HintsAtRest:
    """The hints that Redis held after every task was terminal: of each queue with a stream.

    Read again and again for ``waited_seconds``, until there were none or the time was up.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["hints_at_rest"] = "hints_at_rest"
    at: float
    waited_seconds: float
    queues: tuple[QueueHints, ...]
