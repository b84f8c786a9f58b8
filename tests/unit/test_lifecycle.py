"""The lifecycle: transitions are closed, epochs mark ownership, the README shows the diagram."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.lifecycle import (
    TRANSITIONS,
    Backoff,
    Counters,
    Reason,
    State,
    after_attempt,
    diagram,
    epoch_step,
    is_legal,
)

README = Path(__file__).parents[2] / "README.md"


def test_every_state_is_reachable_and_only_terminal_states_end() -> None:
    reached: set[State | None] = {None}
    while True:
        further = reached | {target for source in reached for target in TRANSITIONS[source]}
        if further == reached:
            break
        reached = further
    assert reached == {None, *State}
    ends = {source for source, targets in TRANSITIONS.items() if not targets}
    assert ends == {State.SUCCEEDED, State.CANCELLED}
    assert TRANSITIONS[State.FAILED] == {State.SCHEDULED: frozenset({Reason.RETRIED})}


def test_odd_epoch_means_owned_along_every_path() -> None:
    pending: list[tuple[State | None, int]] = [(None, 0)]
    seen = set(pending)
    while pending:
        source, parity = pending.pop()
        for target in TRANSITIONS[source]:
            after = (target, (parity + epoch_step(source, target)) % 2)
            if after not in seen:
                seen.add(after)
                pending.append(after)
    assert {state for state, parity in seen if parity == 1} == {State.RUNNING}
    assert (State.RUNNING, 0) not in seen


COUNTERS = st.builds(
    Counters,
    attempt=st.integers(1, 12),
    losses=st.integers(0, 3),
    handed_back=st.integers(0, 3),
    max_attempts=st.integers(1, 6),
    max_losses=st.integers(1, 3),
)
ENDS = [
    Reason.SUCCEEDED,
    Reason.FAILED,
    Reason.TIMED_OUT,
    Reason.DISCARDED,
    Reason.LOST,
    Reason.RELEASED,
    Reason.CANCELLED,
]


@given(COUNTERS, st.sampled_from(ENDS), st.booleans())
def test_every_end_of_an_attempt_is_a_legal_transition(
    counters: Counters, reason: Reason, cancel_requested: bool
) -> None:
    requested = cancel_requested or reason is Reason.CANCELLED
    target = after_attempt(counters, reason, cancel_requested=requested)
    assert is_legal(State.RUNNING, target, reason)
    if requested and reason is not Reason.SUCCEEDED:
        assert target is State.CANCELLED


@given(COUNTERS)
def test_losses_and_releases_do_not_count_as_attempts(counters: Counters) -> None:
    lost = Counters(
        counters.attempt + 1,
        counters.losses + 1,
        counters.handed_back,
        counters.max_attempts,
        counters.max_losses,
    )
    assert lost.used == counters.used
    target = after_attempt(lost, Reason.LOST, cancel_requested=False)
    assert (target is State.FAILED) == (lost.losses >= lost.max_losses)


@given(
    st.builds(
        Backoff,
        base_seconds=st.floats(0, 100),
        factor=st.floats(1, 10),
        max_seconds=st.floats(0, 1000),
        jitter=st.floats(0, 1),
    ),
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
)
def test_delay_is_between_zero_and_the_cap(backoff: Backoff, failures: int, uniform: float) -> None:
    delay = backoff.delay_seconds(failures, uniform)
    assert 0 <= delay <= backoff.max_seconds
    assert delay >= backoff.delay_seconds(1, 0.0) * (1 - backoff.jitter) or failures == 1


def test_delays_double() -> None:
    backoff = Backoff(base_seconds=1, factor=2, max_seconds=10, jitter=0)
    assert [backoff.delay_seconds(n, 0.5) for n in range(1, 6)] == [1, 2, 4, 8, 10]
    assert Backoff(jitter=1).delay_seconds(1, 0.25) == pytest.approx(0.75)


@pytest.mark.parametrize("failures", [1, 2, 343, 10_000])
def test_no_delay_never_becomes_one(failures: int) -> None:
    """The power overflows after 343 failures."""
    assert Backoff(base_seconds=0.0, factor=8.0, jitter=0.0).delay_seconds(failures, 0.5) == 0.0


@pytest.mark.parametrize("wrong", [{"base_seconds": -1}, {"factor": 0.5}, {"jitter": 2}])
def test_invalid_backoff_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="jitter"):
        Backoff(**wrong)


def test_readme_shows_the_diagram() -> None:
    assert diagram() in README.read_text(), (
        "README.md: paste the output of holdfast.model.lifecycle.diagram()"
    )
