"""Doubts about the harness: what it recorded of itself contradicts the plan or other records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from specimen import Specimen

from chaos.checker.bounds import allowed
from chaos.checker.doubts import doubts_of
from chaos.history.history import History
from chaos.history.records import Bound, Run, decode, encode
from chaos.scenario.scenario import Scenario
from holdfast.model.lifecycle import Backoff


def found(history: History) -> list[str]:
    return list(doubts_of(history, Scenario.model_validate(history.run.scenario)))


def good() -> Specimen:
    run = Specimen()
    run.submit("a").dispatch().claim().succeed()
    return run


# -------------------------------------------------------------------------------------------- T


def with_run(**changes: Any) -> History:
    return good().edited(lambda r: replace(r, **changes) if isinstance(r, Run) else r)


def test_bound_other_than_computed_is_doubted() -> None:
    assert found(good().history()) == []
    doubled = Bound(seconds=40.0, terms=())
    assert found(with_run(bound=doubled)) == [
        "T was recorded as 40.00 s, the settings imply 20.00 s"
    ]


def computed(backoff: Backoff | None, settings: dict[str, Any]) -> Run:
    run = with_run().run
    scenario = Scenario.model_validate(
        run.scenario | {"expect": {}, "topology": {"settings": settings}}
    )
    return replace(
        run,
        scenario=scenario.document,
        settings=settings | {"trace_ratio": 1.0},
        bound=allowed(scenario, backoff),
        backoff=backoff,
    )


@pytest.mark.parametrize("backoff", [None, Backoff(base_seconds=90.0)])
def test_bound_is_computed_again_from_what_is_recorded(backoff: Backoff | None) -> None:
    run = computed(backoff, {"lease_seconds": 9.0})
    read = decode(encode(run))
    assert read == run

    def doubts(run: Run) -> list[str]:
        return found(good().edited(lambda r: run if isinstance(r, Run) else r))

    assert doubts(run) == []
    assert doubts(replace(run, backoff=Backoff(max_seconds=400.0)))
    assert doubts(replace(run, settings=run.settings | {"lease_seconds": 10.0})) == [
        "the recorded settings are not those of the scenario: lease_seconds",
    ]
    longer = replace(run, settings=run.settings | {"lease_seconds": 40.0})
    assert len(doubts(longer)) == 2
    unusable = replace(run, settings=run.settings | {"poll_seconds": "often"})
    assert doubts(unusable) == ["the recorded settings are not settings of Holdfast"]
