"""Guards of the scans (``system/holdfast/store/scans.py``) and of ``store.py``."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_FILE = "system/holdfast/store/scans.py"
_STORE = "system/holdfast/store/store.py"
_TRANSITIONS = "system/holdfast/store/transitions.py"
_FIRST = "    ORDER BY t.due_at, t.id LIMIT r.free"
_DUE = f"      AND t.due_at <= (SELECT clock_timestamp())\n{_FIRST}"
_UTC = Edit(
    _STORE,
    "from datetime import datetime, timedelta",
    "from datetime import UTC, datetime, timedelta",
)

OVERDUE_KEPT = Mutant(
    name="overdue_kept",
    guard="an attempt far past its timeout is reclaimed from any worker",
    what="only attempts of dead workers are reclaimed",
    scenario="commit_reply_lost",
    killers=("L1",),
    covered_by="resent claims of unknown outcome, the heartbeat's release, the worker's timer",
    pair="overdue_kept_claim_given_up_orphans_kept",
    edits=(
        Edit(
            _FILE,
            "       <= alive.heard\n",
            "       <= timestamptz '-infinity'\n",
        ),
    ),
)

MUTANTS = (
    OVERDUE_KEPT,
    Mutant(
        name="mark_dead_late",
        guard="a mark_dead that is executed long after it was sent marks no worker",
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
        unlive="whether a resumed Postgres executes it or the heartbeats first is up to the "
        "kernel's scheduler",
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
                "       <= alive.heard\n",
                "       <= (SELECT clock_timestamp())\n",
            ),
        ),
    ),
    Mutant(
        name="room_ignored",
        guard="at most queue_depth_max tasks are QUEUED per queue",
        what="QUEUED tasks are not counted",
        scenario="redis_flapping",
        killers=("S17",),
        edits=(
            Edit(
                _FILE,
                "FROM holdfast.tasks t\n    WHERE t.state = '{State.QUEUED}' AND t.queue = q.queue",
                "FROM holdfast.tasks t WHERE false",
            ),
        ),
    ),
    Mutant(
        name="dispatch_before_due",
        guard="only due tasks are dispatched",
        what="SCHEDULED tasks are dispatched immediately",
        scenario="crowded",
        killers=("S3",),
        edits=(Edit(_FILE, _DUE, _FIRST),),
    ),
    Mutant(
        name="dispatch_by_own_clock",
        guard="due is decided by the database's clock",
        what="it is decided by the scheduler's clock",
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
        guard="leases expire by the database's clock",
        what="they expire by the worker's clock",
        scenario="clock_skew",
        killers=("S16",),
        edits=(
            Edit(
                _TRANSITIONS,
                "    clock_timestamp() + make_interval(secs => CAST(:lease AS float8)),\n"
                "    begun_until",
                "    CAST(:now AS timestamptz) + make_interval(secs => CAST(:lease AS float8)),\n"
                "    begun_until",
            ),
            Edit(
                _STORE,
                '            "begun_until": begun_until,\n',
                '            "begun_until": begun_until,\n            "now": datetime.now(UTC),\n',
            ),
            _UTC,
        ),
    ),
    Mutant(
        name="mark_dead_without_expiry",
        guard="only a worker whose lease has expired is marked dead",
        what="every worker is marked dead",
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
        name="reclaim_once",
        guard="the reclaim is level-triggered: it ends all attempts of dead workers",
        what="it ends only those of a worker that was marked dead just before",
        scenario="late_claim",
        killers=("L1",),
        edits=(
            Edit(
                _FILE,
                "  FROM holdfast.workers WHERE dead_at IS NOT NULL),\nalive AS",
                "  FROM holdfast.workers\n"
                "  WHERE dead_at > clock_timestamp() - interval '0.3 seconds'),\nalive AS",
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
        what="losses is not incremented",
        scenario="zombie_returns",
        killers=("S7",),
        edits=(
            Edit(_FILE, "locked.losses + locked.lost::int AS losses,", "locked.losses AS losses,"),
        ),
    ),
    Mutant(
        name="reclaim_ignores_cancel",
        guard="a lost attempt with a cancel request ends CANCELLED",
        what="it is retried",
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
        "dispatch, republish, reclaim and prune filter by state",
        _FILE,
        "the CHECKs of the table refuse QUEUED with an odd epoch or a finished_at: the whole "
        "statement fails; hint_deadline is set only while QUEUED",
    ),
    Unplanted(
        "FOR NO KEY UPDATE SKIP LOCKED",
        _FILE,
        "without SKIP LOCKED only slower: the filter is evaluated again after the wait; without "
        "the lock the key of task_events (task, seq) refuses the second of two transitions",
    ),
    Unplanted(
        "MATERIALIZED, so that LIMIT is evaluated once",
        _FILE,
        "equivalent on Postgres >= 12, which never inlines a CTE that locks rows or is used twice; "
        "stated explicitly all the same",
    ),
    Unplanted(
        "a hint is republished only after its deadline, which doubles up to a cap",
        _FILE,
        "without it only more hints: claims refuse them, and the stream is capped",
    ),
    Unplanted(
        "expire_hints changes only QUEUED tasks",
        _FILE,
        "equivalent: hint_deadline is unused in other states",
    ),
    Unplanted(
        "the lease is checked again under the lock",
        _FILE,
        "covers the scan's frozen clock after a wait, but SKIP LOCKED never waits; "
        "see mark_dead_without_expiry",
    ),
    Unplanted(
        "an attempt counts as timed out only if its worker sent a heartbeat since",
        _FILE,
        "otherwise a loss uses up an attempt: it takes max_attempts such losses to violate an "
        "invariant, and max_losses ends the task before that",
    ),
    Unplanted(
        "only a worker whose row is marked dead counts as dead, not one without a row",
        _FILE,
        "rows are deleted only after the retention",
    ),
    Unplanted(
        "prune respects the retention, deletes whole tasks, and keeps workers that own attempts",
        _FILE,
        "a scheduler prunes at its start and then once a minute; tests/scheduler/test_scheduler.py",
    ),
    Unplanted(
        "a submit that fails after the first send has an unknown outcome",
        _STORE,
        "clients treat any 5xx as unknown and resend the same key",
    ),
    Unplanted(
        "a statement has at most one hint and one outcome per task",
        _STORE,
        "a stale hint claims nothing and is republished; the finisher sends one outcome per task",
    ),
    Unplanted(
        "an unstorable item does not fail the others of its batch",
        "system/holdfast/store/resend.py",
        "no result of the workload is unstorable; tests/worker/test_finisher.py",
    ),
)
