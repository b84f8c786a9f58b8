"""The payloads of one claim have a limit together: 100 of 1 MB were one reply of 100 MB."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from bench import Bench

from holdfast.model.claim import Claimed
from holdfast.model.dispatch import Hint
from holdfast.model.lifecycle import State
from holdfast.store.store import Store
from holdfast.store.transitions import CLAIM_BYTES_MAX

LARGE = {"x": "x" * ((1 << 20) - 20)}
# 0.3 MB as it is sent, 12 MB as Postgres writes it.
LONG_NUMBERS = {"x": [1e300] * 40_000}


@pytest.fixture
async def bench(bench: Bench) -> AsyncIterator[Bench]:
    """A bench whose statements have time for 8 MiB on a busy machine."""
    patient = bench.quick(statement_timeout_seconds=30.0)
    store = Store(patient, connections=2, application_name="test")
    yield replace(bench, store=store)
    await store.close()


async def offered(bench: Bench, *payloads: Any, **fields: Any) -> Sequence[Hint]:
    """Submit and dispatch one task per payload; return the hints in that order."""
    ids = [(await bench.submit("any", payload=each, **fields))[0] for each in payloads]
    hints = {hint.task_id: hint for hint in (await bench.store.dispatch(100, "s:test")).tasks}
    return [hints[task_id] for task_id in ids]


async def parts(bench: Bench, hints: Sequence[Hint], worker: UUID) -> list[Claimed]:
    """Claim the hints, and what remains of them, as a worker does."""
    found = []
    while hints:
        found.append(await bench.store.claim(hints, worker, uuid4()))
        assert not found[-1].deferred
        hints = [hint for hint in hints if hint.task_id in found[-1].remaining]
    return found


def granted(claimed: Claimed) -> list[UUID]:
    return [grant.task_id for grant in claimed.grants]


async def test_large_payloads_are_granted_in_parts_of_a_limited_size(bench: Bench) -> None:
    hints, worker = await offered(bench, *[LARGE] * 20), await bench.registered()
    found = await parts(bench, hints, worker)
    assert [len(part.grants) for part in found] == [8, 8, 4]
    assert [task_id for part in found for task_id in granted(part)] == [h.task_id for h in hints]
    for part in found:
        assert sum(len(grant.payload) for grant in part.grants) <= CLAIM_BYTES_MAX
    assert all(len(grant.payload) > 1_000_000 for part in found for grant in part.grants)


async def test_small_tasks_are_granted_together(bench: Bench) -> None:
    hints, worker = await offered(bench, *[{}] * 30), await bench.registered()
    (only,) = await parts(bench, hints, worker)
    assert len(only.grants) == 30


async def test_payload_beyond_the_limit_is_granted_alone(bench: Bench) -> None:
    hints = await offered(bench, {"n": 1}, LONG_NUMBERS, LONG_NUMBERS, {"n": 2})
    found = await parts(bench, hints, await bench.registered())
    assert [granted(part) for part in found] == [[hint.task_id] for hint in hints]
    assert len(found[1].grants[0].payload) > CLAIM_BYTES_MAX


async def test_claim_that_is_resent_grants_no_more_than_it_did(bench: Bench) -> None:
    hints, worker, token = await offered(bench, *[LARGE] * 12), await bench.registered(), uuid4()
    first = await bench.store.claim(hints, worker, token)
    again = await bench.store.claim(hints, worker, token)
    assert len(first.grants) == 8
    assert (granted(again), again.again) == (granted(first), 8)
    assert again.remaining == first.remaining == {hint.task_id for hint in hints[8:]}
    rest = await bench.store.claim(hints, worker, uuid4())
    assert granted(rest) == [hint.task_id for hint in hints[8:]]


@pytest.mark.parametrize("large", [1, 9])
async def test_quarantined_task_is_deferred_whatever_remains(bench: Bench, large: int) -> None:
    (last,) = await offered(bench, LARGE)
    bench.sql("UPDATE tasks SET losses = 2")
    hints, worker = await offered(bench, *[LARGE] * large), await bench.registered()
    claimed = await bench.store.claim([last, *hints], worker, uuid4(), exclusive=True)
    assert len(claimed.grants) == min(large, 8)
    assert claimed.deferred == {last.task_id}
    assert claimed.remaining == {hint.task_id for hint in hints[8:]}
    # While it runs, the others wait for its end rather than for a smaller reply.
    other = await bench.registered()
    assert granted(await bench.store.claim([last], other, uuid4(), exclusive=True)) == [
        last.task_id
    ]
    left = await offered(bench, *[LARGE] * 9)
    waiting = await bench.store.claim(left, other, uuid4())
    assert (waiting.grants, waiting.remaining) == ((), frozenset())
    assert waiting.deferred == {hint.task_id for hint in left}
    assert await bench.state(left[0].task_id) is State.QUEUED


@pytest.mark.parametrize("payload", [{}, LARGE, LONG_NUMBERS, {"é": ["🌊", {"a": 1e2, "b": None}]}])
async def test_stored_size_is_that_of_the_payload_in_a_grant(bench: Bench, payload: Any) -> None:
    (grant,) = await bench.claimed("any", payload=payload)
    assert bench.sql("SELECT payload_bytes FROM tasks") == [(len(grant.payload),)]
