"""Guards of the scheduler (``scheduler/scheduler.py``) and of its loops (``runtime/``)."""

from __future__ import annotations

from chaos.mutants.hints import ASKED_BY_A_READ
from chaos.mutants.hints import MUTANTS as _HINTS
from chaos.mutants.mutant import Edit, Mutant, Unplanted, both

_FILE = "system/holdfast/scheduler/scheduler.py"
_SUPERVISION = "system/holdfast/runtime/supervision.py"
_DETECTOR = "system/holdfast/scheduler/failure_detector.py"
_GROUP_FROM_NOW_ON = next(mutant for mutant in _HINTS if mutant.name == "group_from_now_on")

HINTS_ONCE = Mutant(
    name="hints_once",
    guard="a hint not claimed by its deadline is republished",
    what="each hint is published once",
    scenario="hints_lost",
    killers=("L1",),
    edits=(
        Edit(
            _FILE,
            "        if await self._queue.renew_generation():\n"
            "            await self._republish(self._sweeping)\n",
            "        await self._queue.renew_generation()\n",
        ),
    ),
)

_HINT_LOSS_IGNORED = Mutant(
    name="hint_loss_ignored",
    guard="after a hint loss all hints are republished immediately",
    what="only the generation is set",
    scenario="redis_amnesia",
    killers=("L1",),
    covered_by="the hint deadline: the hint is republished, only later",
    pair="hint_loss_ignored_hints_once",
    edits=(
        Edit(
            _FILE,
            "        since, expired, store = await",
            "        await self._queue.create_generation()\n"
            "        return\n"
            "        since, expired, store = await",
        ),
    ),
)

DEAD_NOT_DRAINED = Mutant(
    name="dead_not_drained",
    guard="hints that a dead incarnation read but never claimed are moved back to the stream",
    what="they stay pending for the dead consumer",
    scenario="hints_orphaned",
    killers=("S29",),
    edits=(
        Edit(
            _FILE,
            "for worker in await send_halving(consumers, self._sweeping.dead_workers):",
            "for worker in []:",
        ),
    ),
)

_REFUSED_HINTS_DOUBLE = Mutant(
    name="refused_hints_double",
    guard="a hint that Redis refused does not double its deadline",
    what="it doubles, as if it had been published",
    scenario="redis_full",
    killers=("L1",),
    covered_by="no hint is republished to a Redis that refuses writes (renew_generation)",
    pair="asked_by_a_read_refused_hints_double",
    edits=(
        Edit(
            _FILE,
            "await send_halving(ids, store.restart_hint_deadlines)",
            "pass",
        ),
    ),
)

_BOUND_BY_XLEN = Mutant(
    name="bound_by_xlen",
    guard="the bound of the queue counts QUEUED rows, not entries of the stream",
    what="the room is queue_depth_max minus XLEN",
    scenario="narrow_queue",
    killers=("L1",),
    covered_by="the drain of dead consumers",
    pair="bound_by_xlen_dead_not_drained",
    edits=(
        Edit(
            _FILE,
            "        batch = self._dispatch_batch\n",
            """\
        entries = await self._queue._redis.xlen(self._queue._stream("default"))
        room = max(0, self._settings.queue_depth_max - entries)
        batch = BatchSize(min(room, self._dispatch_batch.rows))
""",
        ),
        Edit(
            "system/holdfast/store/scans.py",
            "SELECT count(*) FROM holdfast.tasks t\n"
            "    WHERE t.state = '{State.QUEUED}' AND t.queue = q.queue",
            "SELECT count(*) FROM holdfast.tasks t WHERE false",
        ),
    ),
)

MUTANTS = (
    HINTS_ONCE,
    _HINT_LOSS_IGNORED,
    both("hint_loss_ignored_hints_once", _HINT_LOSS_IGNORED, HINTS_ONCE, killers=("L1",)),
    both("group_from_now_on_hints_once", _GROUP_FROM_NOW_ON, HINTS_ONCE, killers=("L1",)),
    DEAD_NOT_DRAINED,
    both("dead_not_drained_hints_once", DEAD_NOT_DRAINED, HINTS_ONCE, killers=("L1",)),
    _REFUSED_HINTS_DOUBLE,
    both(
        "asked_by_a_read_refused_hints_double",
        ASKED_BY_A_READ,
        _REFUSED_HINTS_DOUBLE,
        killers=("L1",),
    ),
    _BOUND_BY_XLEN,
    both("bound_by_xlen_dead_not_drained", _BOUND_BY_XLEN, DEAD_NOT_DRAINED, killers=("L1",)),
    Mutant(
        name="detector_without_wait",
        guard="no worker is marked dead right after a scheduler's own outage (FailureDetector)",
        what="every expired lease marks its worker dead immediately",
        scenario="database_down_longer_than_lease",
        killers=("S16",),
        edits=(
            Edit(_FILE, "needed_seconds=3 * settings.heartbeat_seconds,", "needed_seconds=0.0,"),
        ),
    ),
    Mutant(
        name="asleep_until_woken",
        guard="a scheduler ticks when the next task is due, or after poll_seconds",
        what="it sleeps until it is woken",
        scenario="crowded",
        killers=("L1",),
        edits=(
            Edit(
                _FILE,
                "            await wait_for_event(self._poked, seconds)\n",
                "            await wait_for_event(self._poked, 3600 + seconds)\n",
            ),
        ),
    ),
    Mutant(
        name="loops_unsupervised",
        guard="a failed loop is restarted, and a stuck one makes the process not ready",
        what="it ends, and the process still reports ready (W23)",
        scenario="redis_flapping",
        killers=("L1", "L2"),
        edits=(
            Edit(
                _SUPERVISION,
                "            await self.sleep(_backoff_seconds(loop.failures))\n",
                "            return\n",
            ),
            Edit(
                _SUPERVISION,
                "    if seconds <= loop.stalled_seconds:\n",
                "    if seconds >= 0:\n",
            ),
        ),
    ),
    Mutant(
        name="progress_not_noted",
        guard="a process is ready as long as its loops make progress",
        what="progress is not noted",
        scenario="calm",
        killers=("S27",),
        edits=(
            Edit(
                _SUPERVISION,
                "                loop.progressed_at = asyncio.get_running_loop().time()\n",
                "                pass\n",
            ),
        ),
    ),
)

UNPLANTED = (
    Unplanted(
        "hints are published after the reply to the dispatch",
        _FILE,
        "equivalent: the hints are in the reply",
    ),
    Unplanted(
        "dispatch pauses while Redis does not answer",
        _FILE,
        "without it QUEUED tasks only wait for their hint deadline",
    ),
    Unplanted(
        "the generation is set only after all hints are republished",
        _FILE,
        "covered by the hint deadline; only a kill in between could show it",
    ),
    Unplanted(
        "sweeps do not need Redis",
        _FILE,
        "without it only later: Redis is back at the heal",
    ),
    Unplanted(
        "a jump of the database's clock restarts the wait of the FailureDetector",
        _DETECTOR,
        "no arena can step the clock of Postgres; tests/scheduler/test_scheduler.py",
    ),
    Unplanted(
        "every answer of Postgres counts, not only the clock's (FailureDetector.answered)",
        _DETECTOR,
        "without it only later: the heal ends the latency; tests/scheduler/test_scheduler.py",
    ),
    Unplanted(
        "wakeups, full batches, metrics",
        _FILE,
        "without them only slower",
    ),
    Unplanted(
        "only dead consumers are drained",
        _FILE,
        "draining a live one only republishes its hints, which claims refuse",
    ),
    Unplanted(
        "each kind of sweep has its own connection",
        _FILE,
        "without it only slower",
    ),
    Unplanted(
        "the delay after a failure grows",
        "system/holdfast/runtime/supervision.py",
        "reduces the load on a failing server; without it no promise is broken",
    ),
)
