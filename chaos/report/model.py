"""Derive what the panels of a report show from a judged run, each part once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from chaos.checker.verdict import Judgement
from chaos.history.history import History
from chaos.report import curves
from chaos.report.curves import EffectLatency, Stay
from chaos.report.injections import Injection, PlannedFault, injections, planned_faults
from chaos.report.story import Stories
from chaos.scenario.scenario import Scenario
from observability.charts import Steps, quantile


class RunModel:
    """A judged run with the views that several panels read, computed on first use."""

    def __init__(self, judgement: Judgement) -> None:
        self.judgement = judgement
        self.history: History = judgement.history

    @cached_property
    def scenario(self) -> Scenario:
        return Scenario.model_validate(self.history.run.scenario)

    @cached_property
    def injections(self) -> tuple[Injection, ...]:
        return injections(self.history)

    @cached_property
    def planned_faults(self) -> tuple[PlannedFault, ...]:
        return planned_faults(self.scenario.faults, self.injections)

    @cached_property
    def stories(self) -> Stories:
        return Stories(self.history)

    @cached_property
    def stays(self) -> Mapping[str, Sequence[Stay]]:
        return curves.stays_by_task(self.history)

    @cached_property
    def depth(self) -> Mapping[str, Steps]:
        return curves.depth(self.stays)

    @cached_property
    def accepted(self) -> Steps:
        return curves.accepted(self.history)

    @cached_property
    def effects(self) -> Steps:
        return curves.effects(self.history)

    @cached_property
    def latencies(self) -> tuple[EffectLatency, ...]:
        return curves.latencies(self.history)

    def latency_quantile(self, share: float) -> float | None:
        """Return the latency that ``share`` of the effects do not exceed; None without effects."""
        return quantile([latency.seconds for latency in self.latencies], share)
