"""Guards of the end of an attempt: outcome, result, counters, and when the next one is due."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant
from chaos.mutants.single import SINGLE

_TRANSITIONS = "system/holdfast/store/transitions.py"
_SCANS = "system/holdfast/store/scans.py"
_STORE = "system/holdfast/store/store.py"
_ATTEMPT = "system/holdfast/worker/attempt.py"
_TIMED_OUT_VALUE = "        if result is None or reason is StopReason.TIMED_OUT:\n"
_STOPPED_DELAY = "delay = self._delay(uniform) if reason is StopReason.TIMED_OUT else 0.0"
_DUE_AFTER_RECLAIM = (
    "    due_at = CASE WHEN eligible.next = '{State.SCHEDULED}' THEN clock_timestamp()\n"
    "                  ELSE eligible.due_at END,\n"
)

_MIXED_UP = (
    Mutant(
        name="results_of_others",
        guard="each task of a finish gets its own result",
        what="ids and epochs are sorted, results are not: effects get each other's result",
        scenario="cancel_storm",
        killers=("S19",),
        edits=(
            Edit(
                _STORE,
                "    latest = {success.task_id: success for success in successes}\n"
                "    return {\n"
                '        "ids": list(latest),\n'
                '        "epochs": [s.epoch for s in latest.values()],\n',
                "    latest = {success.task_id: success for success in successes}\n"
                "    ids = sorted(latest)\n"
                "    return {\n"
                '        "ids": ids,\n'
                '        "epochs": [latest[task_id].epoch for task_id in ids],\n',
            ),
        ),
    ),
    Mutant(
        name="delays_of_others",
        guard="each failure of a release gets its own delay",
        what="delays are sorted, the other columns are not",
        scenario="cancel_storm",
        killers=("S21",),
        edits=(
            Edit(
                _STORE,
                "[f.delay_seconds for f in latest.values()]",
                "sorted(f.delay_seconds for f in latest.values())",
            ),
        ),
    ),
    Mutant(
        name="errors_of_others",
        guard="each failure of a release gets its own error",
        what="errors are in reverse order: tasks get each other's",
        scenario="cancel_storm",
        killers=("S19", "S20", "S21"),
        edits=(
            Edit(
                _STORE,
                "[f.detail for f in latest.values()]",
                "[f.detail for f in reversed(latest.values())]",
            ),
        ),
    ),
    Mutant(
        name="answers_by_position",
        guard="an attempt gets the answer about its own end",
        what="answers are matched to ends by their position in the statement",
        scenario="cancel_storm",
        killers=("S13",),
        edits=(
            Edit(
                "system/holdfast/worker/finisher.py",
                "        by_task = {answer.task_id: answer for answer in answers + more}\n"
                "        for end, future in batch:\n"
                "            if not future.done():\n"
                "                future.set_result(by_task[end.task_id])\n",
                "        for (_, future), answer in zip(batch, answers + more, strict=True):\n"
                "            if not future.done():\n"
                "                future.set_result(answer)\n",
            ),
        ),
    ),
)

_OUTCOMES = (
    Mutant(
        name="result_null",
        guard="the ledger row has the handler's result",
        what="its result is null",
        scenario="calm",
        killers=("S11", "S19"),
        edits=(
            Edit(
                _TRANSITIONS,
                "CAST(result AS jsonb) FROM updated ORDER BY id),",
                "'null'::jsonb FROM updated ORDER BY id),",
            ),
            Edit(
                SINGLE,
                "CAST(CAST(:result AS text) AS jsonb) FROM updated),",
                "CAST(left(CAST(:result AS text), 0) || 'null' AS jsonb) FROM updated),",
            ),
        ),
    ),
    Mutant(
        name="falsy_result_null",
        guard="results such as 0, false, an empty text or list are results",
        what="they are stored as null",
        scenario="calm",
        killers=("S19",),
        edits=(
            Edit(
                "system/holdfast/handlers/result.py",
                "        return encode(value, max_bytes).decode()\n",
                "        return encode(value or None, max_bytes).decode()\n",
            ),
        ),
    ),
    Mutant(
        name="stopped_handler_succeeds",
        guard="a handler that was stopped did not succeed",
        what="its cancellation counts as a return without a value",
        scenario="crowded",
        killers=("S4", "S11"),
        edits=(
            Edit(
                _ATTEMPT,
                "            raise\n        return None\n",
                "            raise\n        return Returned(None)\n",
            ),
            Edit(_ATTEMPT, _TIMED_OUT_VALUE, "        if result is None:\n"),
        ),
    ),
    Mutant(
        name="late_value_succeeds",
        guard="what a handler returns after its timeout is no success",
        what="it is",
        scenario="calm",
        killers=("S20",),
        edits=(Edit(_ATTEMPT, _TIMED_OUT_VALUE, "        if result is None:\n"),),
    ),
    Mutant(
        name="discard_retried",
        guard="Discard ends the task",
        what="it counts as a failure, which is retried",
        scenario="calm",
        killers=("S7", "S20"),
        edits=(
            Edit(
                _ATTEMPT,
                "            return self._failure(Reason.DISCARDED, 0.0, raised.detail)\n",
                "            return self._failed(raised, uniform)\n",
            ),
        ),
    ),
    Mutant(
        name="timeout_not_counted",
        guard="an attempt that timed out counts as a failure",
        what="it counts as released, so the task is retried without limit",
        scenario="calm",
        killers=("S20", "S21"),
        edits=(
            Edit(
                _ATTEMPT,
                "StopReason.TIMED_OUT: Reason.TIMED_OUT,",
                "StopReason.TIMED_OUT: Reason.RELEASED,",
            ),
        ),
    ),
    Mutant(
        name="finished_at_claim",
        guard="finished_at is when the attempt ended",
        what="it is when the attempt was claimed",
        scenario="calm",
        killers=("S20",),
        edits=(
            Edit(
                _TRANSITIONS,
                "released_by = CAST(:worker AS uuid), finished_at = clock_timestamp()\n",
                "released_by = CAST(:worker AS uuid), finished_at = t.claimed_at\n",
            ),
            Edit(
                SINGLE,
                "released_by = CAST(:worker AS uuid), finished_at = clock_timestamp()\n",
                "released_by = CAST(:worker AS uuid), finished_at = t.claimed_at\n",
            ),
        ),
    ),
    Mutant(
        name="released_by_kept",
        guard="a reclaim clears released_by: a late end of the former owner is refused",
        what="it is kept, so the late end is answered done",
        scenario="late_failure_early",
        killers=("S13",),
        edits=(
            Edit(
                _SCANS,
                "{LEAVE_RUNNING}, released_by = NULL,\n",
                "{LEAVE_RUNNING},\n",
            ),
        ),
    ),
)

_UNSTORABLE = (
    Mutant(
        name="unstorable_as_null",
        guard="a result that cannot be stored fails its attempt",
        what="it is stored as null, and the task succeeds",
        scenario="workers_killed",
        killers=("S19", "S20"),
        edits=(
            Edit(
                _ATTEMPT,
                "        except Unstorable as error:\n"
                "            return self._failed(Raised(error), uniform)\n",
                '        except Unstorable:\n            encoded = "null"\n',
            ),
        ),
    ),
)

_COUNTERS = (
    Mutant(
        name="one_attempt_more_run",
        guard="the failure that reaches max_attempts is the last",
        what="one more attempt is made",
        scenario="calm",
        killers=("S7",),
        edits=(
            Edit(
                _TRANSITIONS,
                "WHEN locked.attempt - locked.losses - locked.handed_back >= locked.max_attempts",
                "WHEN locked.attempt - locked.losses - locked.handed_back > locked.max_attempts",
            ),
        ),
    ),
    Mutant(
        name="losses_use_up_attempts",
        guard="a lost attempt does not count against max_attempts",
        what="it counts when the next attempt fails",
        scenario="workers_killed",
        killers=("S7",),
        edits=(
            Edit(
                _TRANSITIONS,
                "WHEN locked.attempt - locked.losses - locked.handed_back >= locked.max_attempts",
                "WHEN locked.attempt - locked.handed_back >= locked.max_attempts",
            ),
        ),
    ),
    Mutant(
        name="one_loss_more_allowed",
        guard="the loss that reaches max_losses is the last",
        what="one more loss is allowed",
        scenario="poison_task",
        killers=("S7",),
        edits=(
            Edit(
                _SCANS,
                "WHEN locked.lost AND locked.losses + 1 >= locked.max_losses THEN",
                "WHEN locked.lost AND locked.losses >= locked.max_losses THEN",
            ),
        ),
    ),
)

_DELAYS = (
    Mutant(
        name="loss_delayed",
        guard="a lost attempt is due again at once: it is not the task's fault",
        what="it is due 2 s later per loss",
        scenario="workers_killed",
        killers=("S21",),
        edits=(
            Edit(
                _SCANS,
                _DUE_AFTER_RECLAIM,
                _DUE_AFTER_RECLAIM.replace(
                    "clock_timestamp()",
                    "clock_timestamp() + make_interval(secs => 2 * eligible.losses)",
                ),
            ),
        ),
    ),
    Mutant(
        name="due_kept_after_loss",
        guard="due_at of a lost attempt is the moment of its loss",
        what="due_at stays that of the lost attempt",
        scenario="workers_killed",
        killers=("S21",),
        edits=(Edit(_SCANS, _DUE_AFTER_RECLAIM, "    due_at = eligible.due_at,\n"),),
    ),
    Mutant(
        name="release_delayed",
        guard="a released attempt is due again at once: it is not the task's fault",
        what="it is due after the back-off",
        scenario="rolling_restart",
        killers=("S21",),
        edits=(
            Edit(
                _ATTEMPT,
                _STOPPED_DELAY,
                _STOPPED_DELAY.replace(
                    "is StopReason.TIMED_OUT", "is not StopReason.CANCEL_REQUESTED"
                ),
            ),
        ),
    ),
    Mutant(
        name="timeout_without_delay",
        guard="an attempt that timed out is retried after the back-off",
        what="it is due at once",
        scenario="calm",
        killers=("S21",),
        edits=(Edit(_ATTEMPT, _STOPPED_DELAY, "delay = 0.0"),),
    ),
    Mutant(
        name="backoff_of_default",
        guard="the back-off is that of the handler",
        what="it is the default one",
        scenario="database_restart",
        killers=("S21",),
        edits=(
            Edit(
                "system/holdfast/handlers/handler.py",
                "timeout_seconds, backoff or Backoff())",
                "timeout_seconds, Backoff())",
            ),
        ),
    ),
    Mutant(
        name="backoff_by_attempts",
        guard="the back-off grows with the failures",
        what="it grows with the attempts, also those lost and released",
        scenario="workers_killed",
        killers=("S21",),
        edits=(
            Edit(
                _ATTEMPT,
                "delay_seconds(max(1, self.grant.failures), uniform)",
                "delay_seconds(max(1, self.grant.attempt), uniform)",
            ),
        ),
    ),
    Mutant(
        name="jitter_added",
        guard="jitter shortens the delay, so max_seconds bounds it",
        what="jitter lengthens it",
        scenario="database_restart",
        killers=("S21",),
        edits=(
            Edit(
                "system/holdfast/model/lifecycle.py",
                "full * (1 - self.jitter * uniform)",
                "full * (1 + self.jitter * uniform)",
            ),
        ),
    ),
    Mutant(
        name="retry_after_capped",
        guard="Retry(after) chooses the delay, whatever the back-off",
        what="max_seconds of the back-off bounds it",
        scenario="calm",
        killers=("S21",),
        edits=(
            Edit(
                _ATTEMPT,
                "        return min(delay, _DELAY_SECONDS_MAX) if",
                "        return min(delay, self.handler.backoff.max_seconds) if",
            ),
        ),
    ),
)

MUTANTS = (*_MIXED_UP, *_OUTCOMES, *_UNSTORABLE, *_COUNTERS, *_DELAYS)
