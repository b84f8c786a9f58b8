"""Compute T, the bound of L1: the seconds after the heal within which every due task must end.

T is the sum of the waits that follow each other in the worst case. Each is derived from Settings
and the scenario; none is a safety factor. After the heal every process is up, every connection
works, and no fault returns. What remains from before:

1. *Leftovers settle.* A process waits for a reply that never comes, at most one statement timeout,
   and reconnects. Only then do schedulers tick without gaps, and only after three heartbeat
   intervals of that may they mark workers dead. Meanwhile the lease of an incarnation that died
   just before the heal runs out. mark_dead and reclaim then need one tick each. From here on
   only poison tasks cost attempts: every remaining worker is alive, every dead one has lost its
   tasks.
2. *Lost hints* are republished at their deadline. It doubles with each publishing, but a deadline
   set by the heal is at most the time since the first one (its predecessors add up to that) plus
   one deadline, and at most the cap. While only Redis fails, none is doubled in vain: a refused
   hint starts its deadline anew, and a Redis that lost its data has all hints republished.
3. *The last troubled attempt* began while leftovers settled and hangs until its timeout. If its
   worker does not end it, a scheduler does after the grace; the task then backs off.
4. *Planned failures* and the last attempt: as often as the workload says, each with its run (a
   hang: until its timeout), the delay after it, and the time from due to claimed.
5. *The backlog*: all tasks may be due at once, and every slot of the workers that read a queue is
   busy until the last one, also with tasks of their other queues. A worker reads only while it has
   a free slot for each of its queues, so it may leave that many unused, but for one.
6. *Poison*: a task that kills its worker does so ``max_losses`` times, each after the lease of the
   previous worker; the killed workers must restart.
7. *Quarantine*: a task that one more loss would dead-letter runs exclusively: its worker first
   finishes its other attempts. To count these tasks: each suffered ``max_losses - 1`` losses, and
   each death of a worker costs at most ``worker_concurrency`` tasks one loss. Workers die when
   faults kill them or cut them off from Postgres for longer than the lease, when they are not
   healed, and of poison (except the last time: then nothing else runs there). The quarantined tasks
   are spread over the remaining workers of their queue, on each one after the other.
8. *Unknown names*: where only some workers know a task's name, the others release it, and it rests
   each time. Each claim is another draw of who reads the hint.
9. *Forgotten transactions*: Postgres does not notice that a connection was dropped silently, and
   keeps the locks of its transaction until that has been idle for long.
"""

from __future__ import annotations

import math

from chaos.history.records import Bound, Term
from chaos.scenario.differences import (
    FAILURES_MAX,
    HANG_SECONDS,
    LATER_SECONDS,
    LIMIT_SPREAD,
    RETRY_FACTOR,
    TIMEOUT_FACTOR,
    suits,
)
from chaos.scenario.faults import FaultSpec
from chaos.scenario.operations import EFFECTS, Workload
from chaos.scenario.reads import RETRIES_MAX
from chaos.scenario.scenario import Scenario
from chaos.scenario.vocabulary import TargetKind
from chaos.tasks.declarations import DECLARATIONS
from holdfast.model.lifecycle import Backoff
from holdfast.settings import Settings

# Assumptions about the machine, not the system: two shared cores, everything healthy.
# One round trip to Postgres or Redis, including the wait for a CPU.
ROUND_TRIP_SECONDS = 0.1
# Throughput from submit to finish; measured values are hundreds to thousands.
TASKS_PER_SECOND = 200.0
# The probability that unlucky draws release any task more often than the bound says.
_UNLIKELY = 1e-4
# The longest pause of a supervised loop after an error (system/holdfast/runtime/supervision.py).
LOOP_RESTART_SECONDS = 2.0
# A sweep: clock, mark_dead, reclaim, generation, republish, publish.
SWEEP_ROUND_TRIPS = 6
# From due to claimed: generation, dispatch, publish, read, claim.
START_ROUND_TRIPS = 5
# A batch with the hint of a quarantined task: read, claim (refused), release others, claim again.
QUARANTINE_ROUND_TRIPS = 4
# From the death of a worker to its replacement: the longest pause of the harness, and the start.
WORKER_START_SECONDS = 4.0
# Additional time of a container over a process: Docker's work and a share of the CPU.
CONTAINER_START_SECONDS = 10.0
# Of the servers of all arenas, as system/README.md advises.
IDLE_IN_TRANSACTION_SECONDS = 60.0
# Faults that can keep a heartbeat from Postgres; the others only delay it.
_CUTS = frozenset({"bandwidth", "timeout", "reset_peer", "limit_data", "down"})


def compute(scenario: Scenario, backoff: Backoff | None = None) -> Bound:
    """Compute T of a scenario with its terms.

    ``backoff``: the longest one of handlers besides the workload's own.
    """
    settings, load = scenario.settings(), scenario.workload
    settled = _settled(settings)
    hint = _hint(scenario, sum(term.seconds for term in settled))
    tick = _tick(settings)
    start = settings.poll_seconds + START_ROUND_TRIPS * ROUND_TRIP_SECONDS
    failures = _failures(load)
    longest = longest_attempt(load)
    delay = _longest_delay(load, backoff)
    terms = [
        *settled,
        Term(name="hint", seconds=hint + tick, why="the longest hint deadline in force, one tick"),
        Term(
            name="troubled attempt",
            seconds=_longest_timeout(load) + settings.timeout_grace_seconds + tick,
            why="attempt timeout, grace, and the tick that reclaims it",
        ),
        Term(
            name="backoff",
            seconds=delay,
            why="the longest delay after a failure that a handler declares or asks for",
        ),
        Term(
            name="planned failures",
            seconds=failures * (start + longest + delay),
            why=f"{failures} times: due to claimed, the run, the delay after it",
        ),
        Term(name="last attempt", seconds=start + longest, why="due to claimed, run, finish"),
        Term(name="backlog", seconds=_backlog(scenario), why="all tasks at once on all slots"),
        *_poison(scenario, start + longest),
        *_quarantine(scenario),
        *_unknown_names(scenario, start),
        *_forgotten(scenario),
    ]
    return Bound(seconds=sum(term.seconds for term in terms), terms=tuple(terms))


def allowed(scenario: Scenario, backoff: Backoff | None = None) -> Bound:
    """Return what L1 allows: the computed T, or the number that the scenario gives instead."""
    asked = scenario.expect.eventually.get("L1", "computed")
    if asked == "computed":
        return compute(scenario, backoff)
    return Bound(
        seconds=asked,
        terms=(Term(name="given", seconds=asked, why="expect.eventually.L1 of the scenario"),),
    )


def _hint(scenario: Scenario, settled_seconds: float) -> float:
    """Return the longest hint deadline in force of a task without a hint."""
    settings = scenario.settings()
    if scenario.faults and all(plan.target == ("redis",) for plan in scenario.faults):
        return settings.hint_deadline_seconds
    doubled = fault_seconds(scenario) + settled_seconds + settings.hint_deadline_seconds
    return min(settings.hint_deadline_max_seconds, doubled)


def _failures(load: Workload) -> int:
    """Return how many attempts of a task its payload may let fail."""
    flaky = load.flaky.failures[1] if load.flaky.share else 0
    return max(flaky, FAILURES_MAX if load.differences.ends or load.differences.hangs else 0)


def longest_attempt(load: Workload) -> float:
    """Return the longest time that an attempt occupies its slot, unless faults prolong it."""
    return max(_longest_run(load), _hang(load)) + ROUND_TRIP_SECONDS


def _longest_run(load: Workload) -> float:
    """Return the longest time that an attempt takes by its payload, unless it hangs."""
    # The run time of users' handlers is unknown; the timeout of an attempt bounds it.
    return _longest_timeout(load) if load.handlers else load.handler_seconds[1]


def _hang(load: Workload) -> float:
    """Return the longest time that an attempt takes which hangs: its timeout and its rest."""
    return 1.5 * load.handler_seconds[1] + HANG_SECONDS[1] if load.differences.hangs else 0.0


def _longest_timeout(load: Workload) -> float:
    """Return the longest timeout of an attempt, sent or declared."""
    if not load.differences.requests:
        return load.timeout_seconds
    declared = [each.timeout_seconds or 0.0 for each in DECLARATIONS.values() if suits(load, each)]
    return max(TIMEOUT_FACTOR * load.timeout_seconds, *declared, _hang(load))


def _longest_delay(load: Workload, backoff: Backoff | None) -> float:
    """Return the longest delay after a failure of the workload's handlers, and of others."""
    failures = load.max_attempts + LIMIT_SPREAD
    delays = [each.longest_delay_seconds(failures) for each in DECLARATIONS.values()]
    delays.append(load.flaky.retry_seconds * RETRY_FACTOR)
    delays.append(LATER_SECONDS[1] if load.differences.ends else 0.0)
    delays.append(backoff.delay_seconds(failures, 0.0) if backoff else 0.0)
    return max(delays)


def _settled(settings: Settings) -> list[Term]:
    broken = settings.statement_timeout_seconds + settings.connect_timeout_seconds
    detector = 3 * settings.heartbeat_seconds
    before = broken + LOOP_RESTART_SECONDS + detector
    return [
        Term(
            name="broken connections",
            seconds=broken + LOOP_RESTART_SECONDS,
            why="statement timeout, connect timeout, restart of the loop",
        ),
        Term(
            name="failure detector",
            seconds=detector,
            why="3 heartbeats before a worker is marked dead",
        ),
        Term(
            name="lease",
            seconds=max(0.0, settings.lease_seconds - before),
            why=f"what is left of lease_seconds={settings.lease_seconds:g} by then",
        ),
        Term(
            name="sweeps", seconds=2 * _tick(settings), why="mark_dead and reclaim, one tick each"
        ),
    ]


def _tick(settings: Settings) -> float:
    return settings.poll_seconds + SWEEP_ROUND_TRIPS * ROUND_TRIP_SECONDS


def _backlog(scenario: Scenario) -> float:
    """Return the seconds until the last task of a full backlog gets a slot, plus overhead."""
    load = scenario.workload
    again = _at_most(load.tasks, load.flaky.share) * load.flaky.failures[1]
    again += _at_most(load.tasks, load.differences.ends) * (FAILURES_MAX + _retries(load))
    work = (load.tasks + again) * load.handler_seconds[1] + _hanging(load)
    queues = max(len(scenario.queues_of(worker)) for worker in scenario.workers)
    slots = _workers_left(scenario) * (scenario.settings().worker_concurrency - queues + 1)
    return work / slots + (load.tasks + again) / TASKS_PER_SECOND


def _hanging(load: Workload) -> float:
    """Return the seconds of all attempts that hang, one after the other."""
    attempts = FAILURES_MAX + _retries(load)
    return min(load.tasks, load.differences.hangs) * attempts * _hang(load)


def _retries(load: Workload) -> int:
    """Return how often a dead letter is retried by hand: each time for one attempt more."""
    return RETRIES_MAX if load.reads else 0


def _at_most(tasks: int, share: float) -> float:
    """Return how many tasks a share is at most: four standard deviations above the mean."""
    return min(tasks, tasks * share + 4 * math.sqrt(tasks * share * (1 - share)))


def _workers_left(scenario: Scenario) -> int:
    """Return the number of workers after the heal that read the queue with the fewest."""
    read = [queue for worker in scenario.workers for queue in scenario.queues_of(worker)]
    fewest = min(read.count(queue) for queue in scenario.workload.differences.queues)
    left = scenario.survivors.workers if scenario.survivors else len(scenario.workers)
    return max(1, fewest - (len(scenario.workers) - left))


def _poison(scenario: Scenario, attempt: float) -> list[Term]:
    """Return the terms of poison tasks; ``attempt``: seconds from due to the end of a run."""
    settings, poison = scenario.settings(), scenario.workload.poison
    if not poison:
        return []
    life = attempt + settings.lease_seconds + 2 * _tick(settings)
    deaths = poison * settings.max_losses
    return [
        Term(
            name="poison",
            seconds=settings.max_losses * life,
            why=f"{settings.max_losses} times: due to death, its lease, mark_dead and reclaim",
        ),
        Term(
            name="worker starts",
            seconds=math.ceil(deaths / _workers_left(scenario)) * WORKER_START_SECONDS,
            why=f"{deaths} deaths of workers by {poison} poison tasks",
        ),
    ]


def _unknown_names(scenario: Scenario, start: float) -> list[Term]:
    """Return the term of names that only some workers know; ``start``: from due to claimed."""
    settings, workers = scenario.settings(), len(scenario.workers)
    knowing = min(
        sum(kind in scenario.topology.knows.get(name, EFFECTS) for name in scenario.workers)
        for kind in EFFECTS
    )
    if knowing in {0, workers}:
        return []
    share = 1 - knowing / workers
    times = math.ceil(math.log(scenario.workload.tasks_submitted / _UNLIKELY) / -math.log(share))
    return [
        Term(
            name="unknown names",
            seconds=times * (settings.unknown_name_max_seconds + start),
            why=f"{times} rests: {share:.0%} of the workers do not know the name",
        )
    ]


def _forgotten(scenario: Scenario) -> list[Term]:
    """Return the term of transactions of handlers whose connections were dropped silently."""
    dropped = [plan for plan in scenario.faults if plan.fault == "silent_drop"]
    edges = {edge for plan in dropped for edge in plan.candidates(scenario.topology)}
    handlers = any(edge.startswith("worker-") and edge.endswith("->postgres") for edge in edges)
    if not (handlers and scenario.workload.effects.sql):
        return []
    return [
        Term(
            name="forgotten transactions",
            seconds=IDLE_IN_TRANSACTION_SECONDS,
            why="idle_in_transaction_session_timeout, until which they keep their locks",
        )
    ]


def _quarantine(scenario: Scenario) -> list[Term]:
    """Return the term of quarantined tasks: each waits for other attempts, of which few hang."""
    count, load = quarantined(scenario), scenario.workload
    if not count:
        return []
    rounds = math.ceil(count / _workers_left(scenario))
    each = 2 * (_longest_run(load) + ROUND_TRIP_SECONDS)
    each += QUARANTINE_ROUND_TRIPS * ROUND_TRIP_SECONDS
    return [
        Term(
            name="quarantine",
            seconds=rounds * each + _hanging(load),
            why=f"at most {count} tasks, {rounds} times: other attempts end, then one runs",
        )
    ]


def quarantined(scenario: Scenario) -> int:
    """Return how many tasks can be quarantined at most, poison included."""
    settings, load = scenario.settings(), scenario.workload
    before = settings.max_losses - 1  # losses before quarantine
    if not before:
        return 0  # a task that may never be lost is never quarantined
    deaths = sum(_deaths(scenario, plan) for plan in scenario.faults)
    if scenario.survivors:
        deaths += scenario.topology.workers - scenario.survivors.workers
    deaths += load.poison * before
    lost = deaths * settings.worker_concurrency // before
    lost = min(lost, max(0, deaths - before + 1) * settings.worker_concurrency)
    return min(load.tasks, lost)


def _deaths(scenario: Scenario, plan: FaultSpec) -> int:
    """Return how many incarnations of workers may lose their lease by this fault.

    An outage of Postgres costs none: no worker is marked dead before all could reconnect.
    """
    if plan.target_kind is TargetKind.SERVER:
        return 0
    found = plan.candidates(scenario.topology)
    affected = [name for name in found if name.startswith("worker-")]
    if plan.target_kind is TargetKind.EDGE:
        affected = [name for name in affected if name.endswith("->postgres")]
        cut = plan.fault in _CUTS
    else:
        cut = plan.fault == "pause"
    settings = scenario.settings()
    silent = (plan.for_seconds or math.inf) + settings.heartbeat_seconds
    if plan.fault == "silent_drop":  # a heartbeat is sent again, over a new connection
        cut, silent = True, settings.statement_timeout_seconds + settings.heartbeat_seconds
    if plan.fault != "kill" and not (cut and silent >= settings.lease_seconds):
        return 0
    return min(len(affected), plan.pick or len(affected)) * plan.times


def fault_seconds(scenario: Scenario) -> float:
    """Return how long the fault phase lasts at most: the load, or the last fault if that is later.

    A fault that waits for an event is injected by the end of the load, or not at all.
    """
    load = scenario.workload.last_due_seconds
    ends = [
        (load + plan.after.plus if plan.after else plan.at or 0.0)
        + (plan.every or 0.0) * (plan.times - 1)
        + (plan.for_seconds or 0.0)
        for plan in scenario.faults
    ]
    return max([load, *ends])
