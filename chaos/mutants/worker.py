"""Guards of the worker (``system/holdfast/worker/``)."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted, both
from chaos.mutants.scans import OVERDUE_KEPT
from chaos.mutants.scheduler import HINTS_ONCE
from chaos.mutants.transitions import MUTANTS as _TRANSITIONS

_FILE = "system/holdfast/worker/worker.py"
_TRANSITIONS_FILE = "system/holdfast/store/transitions.py"
_HEARTBEAT = "system/holdfast/worker/heartbeat.py"
_CLAIMER = "system/holdfast/worker/claimer.py"
_LEASE = "system/holdfast/worker/lease.py"
_EXECUTOR = "system/holdfast/worker/executor.py"
_SLOT_POOL = "system/holdfast/worker/slot_pool.py"
_FINISHER = "system/holdfast/worker/finisher.py"
_ATTEMPTS = "system/holdfast/worker/attempt.py"

_CLAIM_NOT_REPEATABLE = next(m for m in _TRANSITIONS if m.name == "claim_not_repeatable")

_ORPHANS_KEPT = Mutant(
    name="orphans_kept",
    guard="the heartbeat releases attempts that this worker owns but does not know",
    what="they stay RUNNING although no worker runs them",
    scenario="replies_lost",
    killers=("L1",),
    covered_by="claims and finishes of unknown outcome, which are sent again until answered",
    pair="claim_given_up_orphans_kept",
    edits=(
        Edit(
            _HEARTBEAT,
            "elif running is None and key not in known and self._claimer.no_claim_since(mark):",
            "elif False and mark:",
        ),
    ),
)

_CLAIM_GIVEN_UP = Mutant(
    name="claim_given_up",
    guard="a claim of unknown outcome is resent under the same token until it is answered",
    what="it counts as refused, and its hints are acked",
    scenario="replies_lost",
    killers=("L1",),
    covered_by="the heartbeat releases attempts that this worker owns but does not know",
    pair="claim_given_up_orphans_kept",
    edits=(
        Edit(
            _CLAIMER,
            "                    claimed = Claimed.merged(await send_halving(hints, claim))\n",
            """\
                    from holdfast.errors import OutcomeUnknown

                    try:
                        claimed = Claimed.merged(await send_halving(hints, claim))
                    except (OutcomeUnknown, Unavailable):
                        return Claimed(), sent
""",
        ),
    ),
)

_FINISH_GIVEN_UP = Mutant(
    name="finish_given_up",
    guard="an end of unknown outcome is resent until it is answered",
    what="it is dropped",
    scenario="replies_lost",
    killers=("L1",),
    covered_by="the heartbeat releases attempts that this worker owns but does not know",
    pair="finish_given_up_orphans_kept",
    edits=(
        Edit(
            _FINISHER,
            "            await asyncio.sleep(_RESEND_SECONDS)\n",
            "            raise RuntimeError from error\n",
        ),
    ),
)

_PENDING_NOT_REREAD = Mutant(
    name="pending_not_reread",
    guard="after a failed iteration, the worker reads its pending hints again",
    what="it reads only new hints",
    scenario="redis_partition",
    killers=("S29",),
    edits=(Edit(_CLAIMER, "            pending=pending,\n", "            pending=False,\n"),),
)

_ACK_BEFORE_CLAIM = Mutant(
    name="ack_before_claim",
    guard="a hint is acked after its claim was answered",
    what="it is acked before the claim",
    scenario="hints_orphaned",
    killers=("L1",),
    covered_by="the hint deadline: the hint is republished, only later",
    pair="ack_before_claim_hints_once",
    edits=(
        Edit(
            _CLAIMER,
            "        claimed, sent = await self._claim(hints) if hints else (Claimed(), 0.0)\n",
            "        await self._queue.ack(deliveries)\n"
            "        claimed, sent = await self._claim(hints) if hints else (Claimed(), 0.0)\n",
        ),
    ),
)

_TAKING = (
    _ORPHANS_KEPT,
    _CLAIM_GIVEN_UP,
    both("claim_given_up_orphans_kept", _CLAIM_GIVEN_UP, _ORPHANS_KEPT, killers=("L1",)),
    both(
        "overdue_kept_claim_given_up_orphans_kept",
        OVERDUE_KEPT,
        _CLAIM_GIVEN_UP,
        _ORPHANS_KEPT,
        killers=("L1",),
    ),
    both(
        "claim_not_repeatable_orphans_kept", _CLAIM_NOT_REPEATABLE, _ORPHANS_KEPT, killers=("L1",)
    ),
    _FINISH_GIVEN_UP,
    both("finish_given_up_orphans_kept", _FINISH_GIVEN_UP, _ORPHANS_KEPT, killers=("L1",)),
    _PENDING_NOT_REREAD,
    both("pending_not_reread_hints_once", _PENDING_NOT_REREAD, HINTS_ONCE, killers=("L1",)),
    Mutant(
        name="hints_never_acked",
        guard="a hint is acked once its claim was answered",
        what="it is not: it stays in Redis for ever",
        scenario="calm",
        killers=("S29",),
        edits=(Edit(_CLAIMER, "        await self._queue.ack(settled)\n", ""),),
    ),
    _ACK_BEFORE_CLAIM,
    both("ack_before_claim_hints_once", _ACK_BEFORE_CLAIM, HINTS_ONCE, killers=("L1",)),
    Mutant(
        name="more_than_slots",
        guard="a worker reads hints only for its free slots",
        what="it reads all available hints",
        scenario="crowded",
        killers=("S9",),
        edits=(Edit(_CLAIMER, "min(self._slots.free, _CLAIM_MAX),", "_CLAIM_MAX,"),),
    ),
    Mutant(
        name="unknown_name_fails",
        guard="a task whose name the worker does not know is released and not counted",
        what="it counts as a failed attempt",
        scenario="two_versions",
        killers=("S15",),
        edits=(
            Edit(
                _EXECUTOR,
                "            grant.epoch,\n            Reason.RELEASED,\n",
                "            grant.epoch,\n            Reason.FAILED,\n",
            ),
        ),
    ),
    Mutant(
        name="unknown_name_rest_fixed",
        guard="a task whose name the worker does not know rests ever longer",
        what="it rests for the first delay each time",
        scenario="two_versions",
        killers=("S21",),
        edits=(Edit(_EXECUTOR, "(grant.unhandled + 1, self.", "(1, self."),),
    ),
    Mutant(
        name="unhandled_not_counted",
        guard="releases by workers that do not know the name are counted",
        what="they are not, so that each rest is the first one",
        scenario="two_versions",
        killers=("S21",),
        edits=(
            Edit(_TRANSITIONS_FILE, "locked.unhandled + no_handler::int AS", "locked.unhandled AS"),
        ),
    ),
    Mutant(
        name="unknown_name_rest_unbounded",
        guard="the rest of a task whose name the worker does not know has a limit",
        what="it doubles without a limit",
        scenario="two_versions",
        killers=("L1", "S21"),
        edits=(
            Edit(_EXECUTOR, "max_seconds=settings.unknown_name_max_seconds,", "max_seconds=1e9,"),
        ),
    ),
)

_CLAIMS_WITHOUT_LEASE = Mutant(
    name="claims_without_lease",
    guard="a worker whose lease may have expired claims nothing until a heartbeat is answered",
    what="it keeps claiming as long as claims are answered",
    scenario="heartbeat_behind",
    killers=("S9",),
    edits=(Edit(_LEASE, "time.monotonic() < self._ends", "bool(self._ends)"),),
)

_DEAD_CONTINUES = Mutant(
    name="dead_continues",
    guard="a worker whose incarnation was marked dead stops and exits",
    what="it keeps claiming",
    scenario="zombie_returns",
    killers=("S9", "S15"),
    covered_by="a worker whose lease has expired claims nothing",
    pair="dead_continues_claims_without_lease",
    edits=(
        Edit(
            _FILE,
            "            self._die()\n            return\n        await self.beats",
            "            await self.beats.sleep(self._settings.heartbeat_seconds)\n"
            "            return\n        await self.beats",
        ),
    ),
)

_LIVING = (
    _CLAIMS_WITHOUT_LEASE,
    _DEAD_CONTINUES,
    both(
        "dead_continues_claims_without_lease",
        _DEAD_CONTINUES,
        _CLAIMS_WITHOUT_LEASE,
        killers=("S9", "S15"),
    ),
    Mutant(
        name="stop_without_release",
        guard="a stopping worker releases attempts that do not end within the grace",
        what="they stay RUNNING under its id",
        scenario="rolling_restart",
        killers=("S16",),
        edits=(
            Edit(
                _FILE,
                "            self._executor.stop(StopReason.SHUTTING_DOWN)\n",
                "            pass\n",
            ),
            Edit(
                _FILE,
                "            await self._ended_within(self._settings.statement_timeout_seconds)\n",
                "",
            ),
        ),
    ),
    Mutant(
        name="retired_too_early",
        guard="a stopping worker marks itself dead last, after all attempts are released",
        what="it does so first, while its handlers are running",
        scenario="rolling_restart",
        killers=("S16",),
        edits=(
            Edit(
                _FILE,
                "            await self._claimer.leave()\n",
                "            await self._beating.retire(self.id, self._executor.begun_until)\n"
                "            await self._claimer.leave()\n",
            ),
        ),
    ),
)

MUTANTS = (*_TAKING, *_LIVING)

_FENCE = "the fence refuses their writes: without it only work is wasted"

UNPLANTED = (
    Unplanted(
        "the payloads of a claim have 8 MiB at most, the rest is claimed immediately afterwards",
        _CLAIMER,
        "the workload has no large payloads; tests/store/test_claim_bytes.py",
    ),
    Unplanted(
        "handlers of attempts that the database no longer lists are stopped",
        _HEARTBEAT,
        _FENCE,
    ),
    Unplanted(
        "an unknown attempt is released only if no claim was in flight",
        _HEARTBEAT,
        "without it a fresh grant is released too: legal, but wasteful",
    ),
    Unplanted(
        "a stopping worker returns hints that it read but did not claim",
        _CLAIMER,
        "covered by the drain of dead consumers and the hint deadline",
    ),
    Unplanted(
        "the hint of a quarantined task waits until the worker is idle; others are returned",
        _CLAIMER,
        "affects only latency; the database enforces it (quarantine_not_exclusive)",
    ),
    Unplanted(
        "while a quarantined task runs, no slot is free",
        _SLOT_POOL,
        "covered by the claim, which grants nothing else (quarantine_not_exclusive)",
    ),
    Unplanted(
        "after its COMMIT, or when its lease is lost, an attempt writes nothing more",
        _ATTEMPTS,
        "covered by the epoch: the same outcome is answered done, any other is refused",
    ),
    Unplanted(
        "an attempt ends at its timeout",
        _ATTEMPTS,
        "no handler of the workload hangs, and its calls have the same timeout; "
        "tests/worker/test_worker_outcomes.py",
    ),
    Unplanted(
        "a cancelled attempt is stopped by the heartbeat",
        _HEARTBEAT,
        "equivalent: a handler that succeeds anyway wins against the cancel",
    ),
    Unplanted(
        "a worker whose slots are kept by handlers that never end is not ready, and leaves",
        _FILE,
        "every handler of the workload ends; tests/worker/test_worker_dead_slots.py",
    ),
    Unplanted(
        "an exception or a result of a handler can always be described",
        _ATTEMPTS,
        "no handler of the workload is hostile; tests/worker/test_worker_hostile.py",
    ),
    Unplanted(
        "an outcome whose write is unknown is resent unchanged, not as a failure",
        _FINISHER,
        "under one epoch only one of them takes effect: at worst an attempt is wasted",
    ),
    Unplanted(
        "a statement has at most one outcome per task",
        _FINISHER,
        "only orphaned attempts get two outcomes, and both name the same epoch",
    ),
    Unplanted(
        "an unstorable result becomes a failure",
        _FINISHER,
        "no result of the workload is unstorable; tests/worker/test_finisher.py",
    ),
    Unplanted(
        "claim, finish, heartbeat and handlers have their own connections",
        _FILE,
        "without it only slower; pool_exhaustion shows it",
    ),
)
