"""T, the bound of L1: within how many seconds after the heal must every due task be terminal?

The sum of the waits that stand one after the other in the worst case, each derived from Settings
and the scenario, none a safety factor. "After the heal" every process is up, every connection
works, and no fault comes back; what is left over from before is:

1. *Leftovers settle.* A process waits for a reply that will never come, at most one statement
   timeout, then reconnects. Only then do schedulers tick without a gap, and after three heartbeat
   intervals of that may they mark the dead. The lease of an incarnation that died just before the
   heal runs meanwhile. Then mark_dead and take_back need a tick each. From here on only poison
   tasks cost attempts: every worker left is alive, every dead one has been dispossessed.
2. *Hints lost before* are published again at their deadline. It doubles with each publishing, but
   one that was set at the heal or before cannot be longer than the time since the first (its
   predecessors add up to it) plus one deadline, and never longer than the cap.
3. *The last troubled attempt*: it began while leftovers settled, hangs until its own timeout, and
   if its worker does not end it, a scheduler does after the grace; the task then backs off.
4. *The planned failures* and the last attempt: as often as the workload says, each with its run,
   its retry delay, and the way from due to claimed.
5. *The backlog*: all tasks may be due at once; every slot of every worker is busy until the last.
6. *Poison*: a task that kills its worker does so ``max_losses`` times, each after the lease of the
   one before; the workers that die of it have to start again.
7. *Last lives*: a task lost so often that one more loss would be its end runs alone in its worker,
   which first lets end what it runs. How many can there be? Each took ``max_losses - 1`` losses,
   and each death of a worker costs at most ``worker_concurrency`` tasks one: those that strikes
   kill or cut off from Postgres for longer than the lease, those that are not healed, and those
   that die of poison (but for the last time: then nothing else runs there). They are spread over
   the workers left, on each one after the other.
"""

from __future__ import annotations

import math

from chaos.plan import FaultSpec
from chaos.records import Bound, Term
from chaos.scenario import Scenario
from chaos.vocabulary import FaultSort
from system.lifecycle import Backoff
from system.settings import Settings

# What the harness assumes of the machine, not of the system: two shared cores, everything healthy.
# One round trip to Postgres or Redis, waiting for a CPU included:
ROUND_TRIP_SECONDS = 0.1
# The whole path of a task, submit to finish; measured are hundreds to thousands.
TASKS_PER_SECOND = 200.0
# The longest pause of a supervised loop after an error (system/loops.py).
LOOP_RESTART_SECONDS = 2.0
# A sweep: clock, mark_dead, take_back, generation, republish, publish.
SWEEP_ROUND_TRIPS = 6
# From due to claimed: generation, dispatch, publish, read, claim.
START_ROUND_TRIPS = 5
# A hint of a last life in a batch: read, claim (not yet), give others back, claim again.
ALONE_ROUND_TRIPS = 4
# From the death of a worker to the next one: the longest pause of the harness, and its start.
WORKER_START_SECONDS = 4.0
# How much longer a container takes than a process: Docker's part, and its share of a CPU.
CONTAINER_START_SECONDS = 10.0
# What can keep a heartbeat from Postgres; the others only slow it down.
_CUTS = frozenset({"bandwidth", "timeout", "reset_peer", "limit_data", "down"})


def compute(scenario: Scenario, backoff: Backoff | None = None) -> Bound:
    """T of a scenario with its terms.

    ``backoff`` is the one of the workload's handlers (default: that of every handler).
    """
    settings, load = scenario.settings(), scenario.workload
    settled = _settled(settings)
    hint = min(
        settings.hint_deadline_max_seconds,
        fault_seconds(scenario) + sum(t.seconds for t in settled) + settings.hint_deadline_seconds,
    )
    tick = _tick(settings)
    start = settings.poll_seconds + START_ROUND_TRIPS * ROUND_TRIP_SECONDS
    failures = load.flaky.failures[1] if load.flaky.share else 0
    # Nobody knows how long other people's handlers take, but for the timeout of an attempt.
    handler_seconds = load.timeout_seconds if load.handlers else load.handler_seconds[1]
    longest = handler_seconds + ROUND_TRIP_SECONDS
    delay = (backoff or Backoff()).delay_seconds(max(1, load.max_attempts - 1), 0.0)
    terms = [
        *settled,
        Term(name="hint", seconds=hint + tick, why="the longest hint deadline in force, one tick"),
        Term(
            name="troubled attempt",
            seconds=load.timeout_seconds + settings.timeout_grace_seconds + tick,
            why="attempt timeout, grace, and the tick that takes it back",
        ),
        Term(
            name="backoff",
            seconds=max(delay, load.flaky.retry_seconds),
            why=f"the longest before attempt {load.max_attempts}",
        ),
        Term(
            name="planned failures",
            seconds=failures * (start + longest + load.flaky.retry_seconds),
            why=f"{failures} times: due to claimed, a run, its retry delay",
        ),
        Term(name="last attempt", seconds=start + longest, why="due to claimed, a run, its finish"),
        Term(name="backlog", seconds=_backlog(scenario), why="all tasks at once on all slots"),
        *_poison(scenario, start + longest),
        *_last_lives(scenario, longest),
    ]
    return Bound(seconds=sum(term.seconds for term in terms), terms=tuple(terms))


def allowed(scenario: Scenario, backoff: Backoff | None = None) -> Bound:
    """What L1 allows: the computed T, or the number that the scenario gives instead."""
    asked = scenario.expect.eventually.get("L1", "computed")
    if asked == "computed":
        return compute(scenario, backoff)
    return Bound(
        seconds=asked,
        terms=(Term(name="given", seconds=asked, why="expect.eventually.L1 of the scenario"),),
    )


def _settled(settings: Settings) -> list[Term]:
    broken = settings.statement_timeout_seconds + settings.connect_timeout_seconds
    steady = 3 * settings.heartbeat_seconds
    before = broken + LOOP_RESTART_SECONDS + steady
    return [
        Term(
            name="broken connections",
            seconds=broken + LOOP_RESTART_SECONDS,
            why="statement timeout, connect timeout, restart of the loop",
        ),
        Term(name="steadiness", seconds=steady, why="3 heartbeats before anybody is marked dead"),
        Term(
            name="lease",
            seconds=max(0.0, settings.lease_seconds - before),
            why=f"what is left of lease_seconds={settings.lease_seconds:g} by then",
        ),
        Term(
            name="sweeps", seconds=2 * _tick(settings), why="mark_dead and take_back, one tick each"
        ),
    ]


def _tick(settings: Settings) -> float:
    return settings.poll_seconds + SWEEP_ROUND_TRIPS * ROUND_TRIP_SECONDS


def _backlog(scenario: Scenario) -> float:
    """Seconds until the last task of a full backlog gets its slot, plus the system's own work."""
    load = scenario.workload
    failures = load.flaky.failures[1] if load.flaky.share else 0
    attempts = load.tasks * (1 + load.flaky.share * failures)
    slots = _workers_left(scenario) * scenario.settings().worker_concurrency
    return attempts * load.handler_seconds[1] / slots + attempts / TASKS_PER_SECOND


def _workers_left(scenario: Scenario) -> int:
    """After the heal."""
    return scenario.survivors.workers if scenario.survivors else scenario.topology.workers


def _poison(scenario: Scenario, attempt: float) -> list[Term]:
    """``attempt``: seconds from due to the end of a run."""
    settings, poison = scenario.settings(), scenario.workload.poison
    if not poison:
        return []
    life = attempt + settings.lease_seconds + 2 * _tick(settings)
    deaths = poison * settings.max_losses
    return [
        Term(
            name="poison",
            seconds=settings.max_losses * life,
            why=f"{settings.max_losses} times: due to death, its lease, mark_dead and take_back",
        ),
        Term(
            name="worker starts",
            seconds=math.ceil(deaths / _workers_left(scenario)) * WORKER_START_SECONDS,
            why=f"{deaths} deaths of workers by {poison} poison tasks",
        ),
    ]


def _last_lives(scenario: Scenario, longest: float) -> list[Term]:
    """``longest``: seconds of a run."""
    many = last_lives(scenario)
    if not many:
        return []
    rounds = math.ceil(many / _workers_left(scenario))
    return [
        Term(
            name="last lives",
            seconds=rounds * (2 * longest + ALONE_ROUND_TRIPS * ROUND_TRIP_SECONDS),
            why=f"at most {many} tasks, {rounds} times: what runs there ends, then one runs alone",
        )
    ]


def last_lives(scenario: Scenario) -> int:
    """How many tasks can come to their last life at most, poison included."""
    settings, load = scenario.settings(), scenario.workload
    before = settings.max_losses - 1  # losses that lead there
    if not before:
        return 0  # a task that may never be lost has no last life but its first
    deaths = sum(_deaths(scenario, plan) for plan in scenario.faults)
    deaths += scenario.topology.workers - _workers_left(scenario) + load.poison * before
    lost = deaths * settings.worker_concurrency // before
    lost = min(lost, max(0, deaths - before + 1) * settings.worker_concurrency)
    return min(load.tasks, lost)


def _deaths(scenario: Scenario, plan: FaultSpec) -> int:
    """How many incarnations of workers may lose their lease by this fault.

    None if all of Postgres is away: then nobody is marked dead before all could come back.
    """
    if plan.sort is FaultSort.SERVER:
        return 0
    found = plan.candidates(scenario.topology)
    struck = [name for name in found if name.startswith("worker-")]
    if plan.sort is FaultSort.EDGE:
        struck = [name for name in struck if name.endswith("->postgres")]
        cut = plan.fault in _CUTS
    else:
        cut = plan.fault == "pause"
    settings = scenario.settings()
    silent = (plan.for_seconds or math.inf) + settings.heartbeat_seconds
    if plan.fault != "kill" and not (cut and silent >= settings.lease_seconds):
        return 0
    return min(len(struck), plan.pick or len(struck)) * plan.times


def fault_seconds(scenario: Scenario) -> float:
    """How long the phase of faults lasts at most: the load, or the last fault if it ends later.

    A fault after an event strikes at the latest when the load ends (else it is not felt).
    """
    load = scenario.workload.last_due_seconds
    ends = [
        (load + plan.after.plus if plan.after else plan.at or 0.0)
        + (plan.every or 0.0) * (plan.times - 1)
        + (plan.for_seconds or 0.0)
        for plan in scenario.faults
    ]
    return max([load, *ends])
