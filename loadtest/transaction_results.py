"""Hold the figures of a drain of transactions, as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from loadtest.drain_results import Round, spread, without_nan
from observability.charts import quantile


@dataclass(frozen=True, slots=True)
class BareRound:
    """Transactions of BEGIN, INSERT, COMMIT by one asyncpg process; CPU by part as in ``Round``."""

    transactions: int
    per_second: float
    cpu_ms_by_part: dict[str, float]


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of single transactions."""

    count: int
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Durations:
        """Summarize the seconds of at least one transaction."""
        middle, last = quantile(seconds, 0.5), quantile(seconds, 0.99)
        assert middle is not None and last is not None  # noqa: S101, PT018 - not empty
        return cls(len(seconds), middle, last)


@dataclass(slots=True)
class TransactionFigures:
    """Figures of one run; ``handler`` and ``sql``: single ones and bare ones at a steady rate."""

    holdfast: list[Round] = field(default_factory=list)
    bare: list[BareRound] = field(default_factory=list)
    handler: Durations | None = None
    sql: Durations | None = None

    def ratios(self) -> list[float]:
        """Return our drain rate over that of bare transactions, per round."""
        pairs = zip(self.holdfast, self.bare, strict=True)
        return [ours.drained_per_second / bare.per_second for ours, bare in pairs]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return cast("dict[str, Any]", without_nan({**asdict(self), "ratio": self.ratios()}))

    def lines(self) -> list[str]:
        """Return medians and, in brackets, ranges over the rounds."""
        ours = [each.cpu_ms_by_part for each in self.holdfast]
        bare = [each.cpu_ms_by_part for each in self.bare]
        rate = spread([each.drained_per_second for each in self.holdfast])
        bare_rate = spread([each.per_second for each in self.bare])
        lines = [
            f"{'':14}{'per second':>26}{'worker ms CPU':>22}{'Postgres ms CPU':>22}",
            f"{'Holdfast':14}{rate:>26}{_cpu(ours, 'worker'):>22}{_cpu(ours, 'postgres'):>22}",
            f"{'bare':14}{bare_rate:>26}{_cpu(bare, 'other'):>22}{_cpu(bare, 'postgres'):>22}",
            f"{'ratio':14}{spread(self.ratios(), digits=2):>26}",
        ]
        for name, each in (("handler", self.handler), ("bare SQL", self.sql)):
            if each is not None:
                lines.append(
                    f"{name}: p50 {each.p50 * 1000:.2f} ms, p99 {each.p99 * 1000:.2f} ms "
                    f"over {each.count} transactions"
                )
        return lines


def _cpu(rounds: Sequence[dict[str, float]], part: str) -> str:
    return spread([each.get(part, 0.0) for each in rounds], digits=2)
