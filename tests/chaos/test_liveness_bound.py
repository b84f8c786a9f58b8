"""The terms of T, after which everything due must be terminal."""

from __future__ import annotations

import pytest

from chaos.checker import bounds
from chaos.report import terminal
from chaos.scenario import scenario
from holdfast.model.lifecycle import Backoff


@pytest.mark.parametrize("name", scenario.names())
def test_bound_is_the_sum_of_its_terms(name: str) -> None:
    one = scenario.find(name)
    bound = bounds.compute(one)
    asked = one.expect.eventually["L1"]
    due = bound.seconds if asked == "computed" else asked
    assert bounds.allowed(one).seconds == due
    assert bound.seconds == pytest.approx(sum(term.seconds for term in bound.terms))
    assert all(term.seconds >= 0 and term.why for term in bound.terms)
    # A bound without limit proves nothing; a workload beyond capacity may take longer.
    assert bound.seconds < max(
        300 if name in {"overload", "poison_task"} else 180, one.workload.tasks / 40
    )
    text = terminal.bound(bound)
    assert all(term.name in text for term in bound.terms)


def test_bound_grows_with_its_inputs() -> None:
    calm = scenario.find("calm")

    def seconds(backoff: Backoff | None = None, **changed: float) -> float:
        document = calm.document
        document["topology"]["settings"] |= changed
        return bounds.compute(type(calm).model_validate(document), backoff).seconds

    normal = seconds()
    assert seconds(statement_timeout_seconds=14) == pytest.approx(normal + 10)
    assert seconds(timeout_grace_seconds=4) == pytest.approx(normal + 3)
    assert seconds(hint_deadline_max_seconds=6) == pytest.approx(normal + 2)
    assert seconds(lease_seconds=60) > normal + 40
    assert seconds(Backoff(base_seconds=9, jitter=0)) > normal


def test_hint_deadline_is_limited_by_the_elapsed_time() -> None:
    document = scenario.find("calm").document
    document["topology"]["settings"] |= {"hint_deadline_max_seconds": 300.0}
    calm = scenario.Scenario.model_validate(document)
    hint = next(term for term in bounds.compute(calm).terms if term.name == "hint")
    assert hint.seconds < bounds.fault_seconds(calm) + 20


def test_scenario_may_set_its_bound() -> None:
    document = scenario.find("calm").document
    document["expect"]["eventually"]["L1"] = 12.5
    bound = bounds.allowed(scenario.Scenario.model_validate(document))
    assert bound.seconds == 12.5
    assert [term.name for term in bound.terms] == ["given"]
