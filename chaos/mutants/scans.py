"""Guards of the scans (``system/holdfast/store/scans.py``) and of ``store.py``."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_FILE = "system/holdfast/store/scans.py"
_STORE = "system/holdfast/store/store.py"
_STATEMENTS = "system/holdfast/store/transitions.py"
_FIRST = "    ORDER BY t.due_at, t.id LIMIT r.free"
_DUE = f"      AND t.due_at <= (SELECT clock_timestamp())\n{_FIRST}"
_UTC = Edit(
    _STORE,
    "from datetime import datetime, timedelta",
    "from datetime import UTC, datetime, timedelta",
)

TOO_OLD_LEFT = Mutant(
    name="too_old_left",
    guard="an attempt far past its timeout is reclaimed from any worker",
    what="only attempts of dead workers are reclaimed",
    scenario="commit_reply_lost",
    killers=("L1",),
    covered_by="unknown claims that are sent again, the heartbeat's release, the worker's timer",
    pair="too_old_left_claim_given_up_strays_kept",
    edits=(
        Edit(
            _FILE,
            "       <= alive.heard)\n",
            "       <= timestamptz '-infinity')\n",
        ),
    ),
)

MUTANTS = (
    TOO_OLD_LEFT,
    Mutant(
        name="mark_dead_late",
        guard="a mark_dead executed long after it was sent marks no worker",
        what="it marks workers whenever it is executed",
        scenario="database_frozen",
        killers=("S16",),
        edits=(
            Edit(
                _FILE,
                "  AND clock_timestamp() <= CAST(:asked AS timestamptz)\n"
                "    + make_interval(secs => CAST(:within AS float8))\n",
                "  AND (CAST(:asked AS timestamptz), CAST(:within AS float8)) IS NOT NULL\n",
            ),
        ),
        unlive="whether a frozen Postgres goes on with it or with the heartbeats first is the "
        "kernel's dice after SIGCONT",
    ),
    Mutant(
        name="silent_timed_out",
        guard="an attempt times out only if its worker sent a heartbeat after the timeout",
        what="attempts of silent workers time out too",
        scenario="scheduler_pause_overlap",
        killers=("S7",),
        edits=(
            Edit(
                _FILE,
                "       <= alive.heard)\n",
                "       <= (SELECT clock_timestamp()))\n",
            ),
        ),
    ),
    Mutant(
        name="room_ignored",
        guard="room: no more than queue_depth_max QUEUED per queue",
        what="QUEUED tasks are not counted",
        scenario="redis_flapping",
        killers=("S17",),
        edits=(
            Edit(
                _FILE,
                "FROM tasks t WHERE t.state = '{State.QUEUED}' AND t.queue = q.queue",
                "FROM tasks t WHERE false",
            ),
        ),
    ),
    Mutant(
        name="dispatch_before_due",
        guard="only due tasks are dispatched",
        what="SCHEDULED tasks are dispatched at once",
        scenario="crowded",
        killers=("S3",),
        edits=(Edit(_FILE, _DUE, _FIRST),),
    ),
    Mutant(
        name="dispatch_by_own_clock",
        guard="the clock is the database's",
        what="the scheduler's own clock decides what is due",
        scenario="clock_skew",
        killers=("S3",),
        edits=(
            Edit(_FILE, _DUE, f"      AND t.due_at <= CAST(:now AS timestamptz)\n{_FIRST}"),
            Edit(
                _STORE,
                '            "depth": self._settings.queue_depth_max,\n',
                '            "depth": self._settings.queue_depth_max,\n'
                '            "now": datetime.now(UTC),\n',
            ),
            _UTC,
        ),
    ),
    Mutant(
        name="lease_by_own_clock",
        guard="leases end by the database's clock",
        what="the worker's own clock decides",
        scenario="clock_skew",
        killers=("S16",),
        edits=(
            Edit(
                _STATEMENTS,
                "    clock_timestamp() + make_interval(secs => CAST(:lease AS float8))\n"
                "  WHERE id = CAST(:worker AS uuid)",
                "    CAST(:now AS timestamptz) + make_interval(secs => CAST(:lease AS float8))\n"
                "  WHERE id = CAST(:worker AS uuid)",
            ),
            Edit(
                _STORE,
                '"lease": self._settings.lease_seconds}\n        rows',
                '"lease": self._settings.lease_seconds}\n'
                '        parameters["now"] = datetime.now(UTC)\n        rows',
            ),
            _UTC,
        ),
    ),
    Mutant(
        name="mark_dead_without_expiry",
        guard="only a worker whose lease has expired is marked dead",
        what="every worker is",
        scenario="crowded",
        killers=("S15", "S16"),
        edits=(
            Edit(
                _FILE,
                "WHERE dead_at IS NULL AND lease_expires_at <= (SELECT clock_timestamp())",
                "WHERE dead_at IS NULL",
            ),
            Edit(
                _FILE,
                "WHERE w.id = locked.id AND locked.lease_expires_at <= clock_timestamp()",
                "WHERE w.id = locked.id",
            ),
        ),
    ),
    Mutant(
        name="take_back_once",
        guard="take-back is level-triggered: what runs under a dead worker, whenever it began",
        what="only shortly after a worker was marked dead",
        scenario="late_claim",
        killers=("L1",),
        edits=(
            Edit(
                _FILE,
                "WITH dead AS MATERIALIZED (SELECT id FROM workers WHERE dead_at IS NOT NULL),",
                "WITH dead AS MATERIALIZED (SELECT id FROM workers\n"
                "  WHERE dead_at > clock_timestamp() - interval '0.3 seconds'),",
            ),
        ),
    ),
    Mutant(
        name="poison_unlimited",
        guard="a task whose workers died max_losses times is FAILED",
        what="it is retried without limit",
        scenario="poison_task",
        killers=("S7", "S15", "L1"),
        edits=(
            Edit(
                _FILE,
                "         WHEN locked.lost AND locked.losses + 1 >= locked.max_losses "
                "THEN '{State.FAILED}'\n",
                "",
            ),
        ),
    ),
    Mutant(
        name="loss_not_counted",
        guard="a lost attempt is counted separately: it is not the task's fault",
        what="losses stays as it is",
        scenario="zombie_returns",
        killers=("S7",),
        edits=(
            Edit(_FILE, "locked.losses + locked.lost::int AS losses,", "locked.losses AS losses,"),
        ),
    ),
    Mutant(
        name="take_back_forgets_cancel",
        guard="a lost attempt that was asked to stop ends CANCELLED",
        what="it is tried again",
        scenario="zombie_returns",
        killers=("S7",),
        edits=(
            Edit(
                _FILE,
                "CASE WHEN locked.cancel_requested THEN '{State.CANCELLED}'\n"
                "         WHEN locked.lost AND",
                "CASE WHEN locked.lost AND",
            ),
        ),
    ),
)

UNPLANTED = (
    Unplanted(
        "dispatch, republish, take_back, prune filter by state",
        _FILE,
        "the CHECKs of the table refuse QUEUED with an odd epoch or an end: the statement fails as "
        "a whole; hint_deadline is set only while QUEUED",
    ),
    Unplanted(
        "FOR NO KEY UPDATE SKIP LOCKED",
        _FILE,
        "without SKIP LOCKED only slower: the filter is tested again after the wait; without the "
        "lock the key of task_events (task, seq) refuses the second of two transitions",
    ),
    Unplanted(
        "MATERIALIZED, so that a LIMIT is never exceeded",
        _FILE,
        "equivalent on Postgres >= 12: what locks rows or is used twice is never inlined; said all "
        "the same",
    ),
    Unplanted(
        "place <= free: priority and the limit across priorities",
        _FILE,
        "the workload has one priority; tests/scheduler/test_scheduler.py",
    ),
    Unplanted(
        "a hint is published again only past its deadline, which doubles up to a cap",
        _FILE,
        "equivalent but for more hints: claims refuse them, the stream is capped",
    ),
    Unplanted(
        "expire_hints touches what is QUEUED only",
        _FILE,
        "equivalent: a deadline means nothing in other states",
    ),
    Unplanted(
        "the lease is tested again under the lock",
        _FILE,
        "covers the scan's frozen clock after a wait, but SKIP LOCKED never waits; "
        "mark_dead_without_expiry is the pair",
    ),
    Unplanted(
        "only a worker that was heard from since has let an attempt time out",
        _FILE,
        "else what is lost counts as the task's fault: it takes max_attempts such losses to be a "
        "wrong, and max_losses ends the task before",
    ),
    Unplanted(
        "only rows of dead workers count as dead, not missing rows",
        _FILE,
        "rows are deleted after the retention only",
    ),
    Unplanted(
        "prune: the retention, whole tasks, workers that own nothing",
        _FILE,
        "a scheduler prunes at its start and then once a minute; tests/scheduler/test_scheduler.py",
    ),
    Unplanted(
        "submit: unavailable after something was sent is an unknown outcome",
        _STORE,
        "clients take any 5xx for unknown and send the same key again",
    ),
    Unplanted(
        "one hint, one end per task in a statement",
        _STORE,
        "an older hint claims nothing and is published again; the finisher sends one end per task",
    ),
    Unplanted(
        "one unstorable item does not harm its neighbours",
        "system/holdfast/store/resend.py",
        "no result of the workload is unstorable; tests/worker/test_finisher.py",
    ),
)
