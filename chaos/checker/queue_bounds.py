"""Compute the bounds of S26: how long a queue with due tasks may start none, by its settings alone.

The load of other queues does not occur in them. Both hold while no fault affects the schedulers,
the servers, or the workers that read the queue.

*From due to the next start*: a queue without QUEUED tasks has room, so the next poll dispatches
one; a queue with QUEUED tasks has a hint. A worker reads hints once it has one free slot for each
of its queues, at least one of each queue. If all its slots are busy, they are free after the
longest attempt, unless it has read before; and it may be handling the hints of another batch.

*From dispatched to started*: hints are read in the order in which they were published, so only the
QUEUED tasks of the same queue come first: each scheduler may have filled its room. In the time of
the longest attempt every slot of a worker becomes free once, except that fewer than one per queue
may stay unused. A read for f free slots takes ``f // queues`` hints of each queue, so in the worst
case, f = 2 * queues - 1, only one for each of so many slots.
"""

from __future__ import annotations

import math

from chaos.checker.bounds import ROUND_TRIP_SECONDS, START_ROUND_TRIPS, longest_attempt
from chaos.history.records import Bound, Term
from chaos.scenario.scenario import Scenario

# A batch of hints: read, claim, ack.
_BATCH_ROUND_TRIPS = 3
# Of a dispatched task: the reply to the dispatch, publish, read, claim.
_HINT_ROUND_TRIPS = 4


def next_start(scenario: Scenario) -> Bound:
    """Compute within how many seconds a queue with a due task starts one."""
    seconds = scenario.settings().poll_seconds + START_ROUND_TRIPS * ROUND_TRIP_SECONDS
    dispatch = Term(name="dispatch", seconds=seconds, why="one poll; from due to claimed")
    return _sum(dispatch, *_cycle(scenario))


def queued_start(scenario: Scenario, queue: str) -> Bound:
    """Compute within how many seconds after its dispatch a task of this queue starts."""
    settings = scenario.settings()
    ahead = settings.queue_depth_max * scenario.topology.schedulers
    each = _taken(scenario, queue)
    rounds = math.ceil(ahead / each)
    cycle = sum(term.seconds for term in _cycle(scenario))
    why = f"{rounds} times, for {ahead} QUEUED tasks of which {each} start each time: "
    return _sum(
        Term(
            name="hint",
            seconds=_HINT_ROUND_TRIPS * ROUND_TRIP_SECONDS,
            why="from dispatched to claimed",
        ),
        Term(name="room", seconds=rounds * cycle, why=f"{why}the longest attempt, one batch"),
    )


def _sum(*terms: Term) -> Bound:
    return Bound(seconds=sum(term.seconds for term in terms), terms=terms)


def _cycle(scenario: Scenario) -> tuple[Term, Term]:
    return (
        Term(
            name="slots",
            seconds=longest_attempt(scenario.workload),
            why="the longest attempt, until a worker has a free slot for each of its queues",
        ),
        Term(
            name="batch",
            seconds=_BATCH_ROUND_TRIPS * ROUND_TRIP_SECONDS,
            why="a worker handles the hints that it has read before",
        ),
    )


def _taken(scenario: Scenario, queue: str) -> int:
    """Return how many hints of a queue all its workers take at least, while each slot ends once."""
    slots = scenario.settings().worker_concurrency
    read = [len(scenario.queues_of(worker)) for worker in readers(scenario, queue)]
    return sum(max(1, (slots - count + 1) // (2 * count - 1)) for count in read)


def readers(scenario: Scenario, queue: str) -> tuple[str, ...]:
    """Return the workers that read a queue."""
    return tuple(name for name in scenario.workers if queue in scenario.queues_of(name))
