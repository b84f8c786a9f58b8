"""Guards of the transitions (``system/holdfast/store/transitions.py``)."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted, both
from chaos.mutants.single import SINGLE

_FILE = "system/holdfast/store/transitions.py"

_REPEATED = (
    "FROM locked AS t WHERE t.state = '{State.RUNNING}' AND t.claim_token = CAST(:token AS uuid)\n"
)

_CLAIMS = (
    Mutant(
        name="claim_without_state",
        guard="a claim takes only QUEUED tasks",
        what="a task that was cancelled under the hint's epoch is claimed",
        scenario="crowded",
        killers=("S4", "S6", "S9", "S11"),
        edits=(
            Edit(
                _FILE,
                "WHERE locked.state = '{State.QUEUED}' AND locked.epoch = locked.sent\n",
                "WHERE locked.epoch = locked.sent\n",
            ),
        ),
    ),
    Mutant(
        name="claim_by_any_token",
        guard="a repeated claim is answered only to the sender of the first one",
        what="a second hint of a running task is granted too, under the same epoch",
        scenario="crowded",
        killers=("S9",),
        edits=(
            Edit(
                _FILE,
                _REPEATED,
                "FROM locked AS t WHERE t.state = '{State.RUNNING}'\n",
            ),
        ),
    ),
    Mutant(
        name="claim_not_repeatable",
        guard="a claim of unknown outcome returns its grants when it is resent",
        what="the resent claim finds the task RUNNING and returns nothing",
        scenario="replies_lost",
        killers=("L1",),
        covered_by="the heartbeat releases attempts that this worker owns but does not know",
        pair="claim_not_repeatable_orphans_kept",
        edits=(
            Edit(
                _FILE,
                _REPEATED,
                "FROM locked AS t WHERE false\n",
            ),
        ),
    ),
    Mutant(
        name="attempt_not_counted",
        guard="the claim itself counts the attempt",
        what="attempt is not incremented",
        scenario="crowded",
        killers=("S7",),
        edits=(Edit(_FILE, "attempt = granted.attempt + 1,", "attempt = granted.attempt,"),),
    ),
    Mutant(
        name="quarantine_not_exclusive",
        guard="a quarantined task is granted only to a worker that runs nothing else",
        what="it is granted like any other",
        scenario="poison_task",
        killers=("S15",),
        edits=(Edit(_FILE, "  WHERE CASE WHEN quarantined\n", "  WHERE CASE WHEN false\n"),),
    ),
    Mutant(
        name="dead_heartbeat_accepted",
        guard="an incarnation that was marked dead stays dead",
        what="its heartbeat is accepted, so it keeps claiming",
        scenario="zombie_returns",
        killers=("S15",),
        edits=(
            Edit(
                _FILE,
                "WHERE id = CAST(:worker AS uuid) AND dead_at IS NULL RETURNING id)",
                "WHERE id = CAST(:worker AS uuid) RETURNING id)",
            ),
        ),
    ),
    Mutant(
        name="lease_not_renewed",
        guard="a heartbeat renews the lease",
        what="the lease expires after lease_seconds regardless of heartbeats",
        scenario="crowded",
        killers=("S16",),
        edits=(
            Edit(
                _FILE,
                "UPDATE holdfast.workers SET lease_expires_at =\n"
                "    clock_timestamp() + make_interval(secs => CAST(:lease AS float8))",
                "UPDATE holdfast.workers SET lease_expires_at =\n"
                "    lease_expires_at + 0 * make_interval(secs => CAST(:lease AS float8))",
            ),
        ),
    ),
)

FINISH_GUARDS = (
    "SELECT locked.id, locked.epoch, locked.seq, locked.outcome, locked.result FROM locked\n"
    "  WHERE locked.state = '{State.RUNNING}' AND locked.epoch = locked.sent),"
)
FINISH = FINISH_GUARDS.partition("\n")[0]

_ENDS = (
    Mutant(
        name="finish_without_epoch",
        guard="a finish names the epoch of its attempt",
        what="a finish succeeds whenever the task is RUNNING, even for another owner",
        scenario="late_finish",
        killers=("S1", "S8", "S9"),
        edits=(
            Edit(_FILE, FINISH_GUARDS, f"{FINISH}\n  WHERE locked.state = '{{State.RUNNING}}'),"),
        ),
    ),
    Mutant(
        name="finish_without_state",
        guard="a finish ends only RUNNING tasks",
        what="a finish checks the epoch alone",
        scenario="late_finish",
        killers=("S1", "S8", "S9"),
        covered_by="the epoch, which is odd exactly while RUNNING (a CHECK of the table)",
        pair="finish_without_guards",
        edits=(Edit(_FILE, FINISH_GUARDS, f"{FINISH}\n  WHERE locked.epoch = locked.sent),"),),
    ),
    Mutant(
        name="finish_without_guards",
        guard="a finish names state and epoch",
        what="a finish succeeds in any state",
        scenario="late_finish",
        killers=("S1", "S8", "S9"),
        edits=(Edit(_FILE, FINISH_GUARDS, f"{FINISH}),"),),
    ),
    Mutant(
        name="finish_without_ledger",
        guard="SUCCEEDED and its ledger row are one statement",
        what="the ledger row is not written",
        scenario="crowded",
        killers=("S11",),
        edits=(
            Edit(
                _FILE,
                "CAST(result AS jsonb) FROM updated ORDER BY id),",
                "CAST(result AS jsonb) FROM updated WHERE false ORDER BY id),",
            ),
            Edit(
                SINGLE,
                "CAST(CAST(:result AS text) AS jsonb) FROM updated),",
                "CAST(CAST(:result AS text) AS jsonb) FROM updated WHERE false),",
            ),
        ),
    ),
    Mutant(
        name="random_ledger_key",
        guard="the key of the ledger is the task's id, never the attempt's",
        what="each attempt has its own key",
        scenario="crowded",
        killers=("S1",),
        edits=(
            Edit(
                _FILE,
                "SELECT id, id, epoch, attempt, finished_at, CAST(result AS jsonb)",
                "SELECT gen_random_uuid(), id, epoch, attempt, finished_at, CAST(result AS jsonb)",
            ),
            Edit(
                SINGLE,
                "SELECT id, id, epoch, attempt, finished_at,",
                "SELECT gen_random_uuid(), id, epoch, attempt, finished_at,",
            ),
        ),
    ),
    Mutant(
        name="finish_without_event",
        guard="every transition writes an event",
        what="SUCCEEDED writes no event",
        scenario="crowded",
        killers=("S6",),
        edits=(
            Edit(
                _FILE,
                "'{Reason.SUCCEEDED}', NULL FROM updated),",
                "'{Reason.SUCCEEDED}', NULL FROM updated WHERE false),",
            ),
            Edit(
                SINGLE,
                "'{Reason.SUCCEEDED}', NULL FROM updated)",
                "'{Reason.SUCCEEDED}', NULL FROM updated WHERE false)",
            ),
        ),
    ),
    Mutant(
        name="release_without_epoch",
        guard="a failure names the epoch of its attempt",
        what="a late failure ends the attempt of the current owner",
        scenario="late_failure",
        killers=("S9",),
        edits=(
            Edit(
                _FILE,
                "AS next\n  FROM locked WHERE locked.state = '{State.RUNNING}' "
                "AND locked.epoch = locked.sent),",
                "AS next\n  FROM locked WHERE locked.state = '{State.RUNNING}'),",
            ),
        ),
    ),
    Mutant(
        name="release_ignores_cancel",
        guard="a failed attempt with a cancel request ends CANCELLED",
        what="it is retried",
        scenario="crowded",
        killers=("S6", "S7"),
        edits=(
            Edit(
                _FILE,
                "CASE WHEN locked.cancel_requested THEN '{State.CANCELLED}'\n"
                "         WHEN locked.outcome = '{Reason.RELEASED}' THEN",
                "CASE WHEN locked.outcome = '{Reason.RELEASED}' THEN",
            ),
        ),
    ),
    Mutant(
        name="retry_without_delay",
        guard="a failed task is retried after its delay, not before",
        what="it is due immediately",
        scenario="calm",
        killers=("S21",),
        edits=(
            Edit(
                _FILE,
                "THEN clock_timestamp() + make_interval(secs => eligible.delay) ELSE",
                "THEN clock_timestamp() + make_interval(secs => 0 * eligible.delay) ELSE",
            ),
        ),
    ),
    Mutant(
        name="release_not_counted",
        guard="a released attempt is counted separately: it is not the task's fault",
        what="handed_back is not incremented",
        scenario="rolling_restart",
        killers=("S7",),
        edits=(
            Edit(
                _FILE,
                "locked.handed_back + (locked.outcome = '{Reason.RELEASED}')::int AS",
                "locked.handed_back AS",
            ),
            Edit(_FILE, "locked.unhandled + no_handler::int AS unhandled", "0 AS unhandled"),
        ),
    ),
)

_UNLOCKED = Mutant(
    name="decided_without_lock",
    guard="the row is locked before its state and epoch are read",
    what="outcomes and cancels use the state that they read before the lock wait",
    scenario="cancel_storm",
    # The key of task_events refuses the second transition: an error that the API answers with 500,
    # and that ends an attempt as failed. Only with the next mutant is the row changed.
    killers=("S20", "S24"),
    edits=(
        Edit(
            _FILE,
            "FROM holdfast.tasks t WHERE t.id = input.id FOR NO KEY UPDATE) t)",
            "FROM holdfast.tasks t WHERE t.id = input.id) t)",
        ),
    ),
)
_UNLOGGED = Mutant(
    name="cancel_unlogged",
    guard="a cancel whose event is refused does not happen",
    what="it is applied without its event",
    scenario="cancel_storm",
    killers=("S6",),
    edits=(
        Edit(
            _FILE,
            "'{Reason.CANCELLED}' END,\n    NULL FROM updated)",
            "'{Reason.CANCELLED}' END,\n    NULL FROM updated ON CONFLICT DO NOTHING)",
        ),
    ),
)

_CLIENTS = (
    _UNLOCKED,
    both("decided_without_lock_unlogged", _UNLOCKED, _UNLOGGED, killers=("S6", "S11")),
    Mutant(
        name="ended_task_cancelled",
        guard="terminal states are final: a late cancel changes nothing",
        what="any task that is not RUNNING becomes CANCELLED",
        scenario="calm",
        killers=("S4", "S6", "S11"),
        edits=(
            Edit(
                _FILE,
                "FROM locked WHERE locked.state IN ('{State.SCHEDULED}', '{State.QUEUED}')\n"
                "    OR (locked.state = '{State.RUNNING}' AND NOT locked.cancel_requested)),",
                "FROM locked),",
            ),
        ),
    ),
)

MUTANTS = (*_CLAIMS, *_ENDS, *_CLIENTS)

_PAIRS = "tests/store/test_store_pairs.py interleaves every pair of statements on one task"

UNPLANTED = (
    Unplanted(
        "an UPDATE sets every column that a CHECK reads",
        _FILE,
        f"without it a CHECK refuses valid rows, but never accepts invalid ones; {_PAIRS}",
    ),
    Unplanted(
        "rows are locked and keys inserted in order",
        _FILE,
        "without it deadlocks, which Database.call resends: only slower",
    ),
    Unplanted(
        "a claim names the epoch of its hint",
        _FILE,
        "equivalent: QUEUED means due and unowned, and the claim continues from the epoch of the "
        "row; a stale hint only starts the task sooner "
        "(tests/store/test_store_stateful.py detects it)",
    ),
    Unplanted(
        "a claim makes the epoch odd, the end of the attempt makes it even",
        _FILE,
        "a CHECK refuses anything else: (epoch % 2 = 1) = (state = 'RUNNING')",
    ),
    Unplanted(
        "the heartbeat returns only RUNNING attempts",
        _FILE,
        "equivalent: only RUNNING rows have a worker_id (CHECK)",
    ),
    Unplanted(
        "a release ends only RUNNING attempts",
        _FILE,
        "covered by the epoch, as in finish_without_state; see release_without_epoch",
    ),
    Unplanted(
        "released_by must be the same worker",
        _FILE,
        "equivalent: an epoch has one owner, so no other worker ends that attempt",
    ),
    Unplanted(
        "only FAILED tasks can be retried manually",
        _FILE,
        "no client of the workload retries; tests/store/test_store_stateful.py does",
    ),
    Unplanted(
        "refused writes are recorded (stale_writes)",
        _FILE,
        "without the record late_finish is unknown, not false: stale_write_refused is never seen",
    ),
    Unplanted(
        "no task is granted together with a quarantined one",
        _FILE,
        "covered by the worker, which reads no hints while it runs one (SlotPool.exclusive)",
    ),
    Unplanted(
        "a cancel of a RUNNING task is a request",
        _FILE,
        "ending it at once is refused by the CHECKs of the table (epoch, worker_id)",
    ),
    Unplanted(
        "a second cancel of a RUNNING task adds nothing",
        _FILE,
        "equivalent: it only adds one legal event",
    ),
    Unplanted(
        "retire and register are idempotent",
        _FILE,
        "without it the process fails and restarts as another incarnation",
    ),
)
