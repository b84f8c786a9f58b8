"""Guards of a granted attempt: its payload and effect key, where its time and its lease begin."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant

_CLAIMER = "system/holdfast/worker/claimer.py"
_LIMIT = "system/holdfast/handlers/time_limit.py"
_BEGAN = "        self._began = self._clock()\n"

MUTANTS = (
    Mutant(
        name="payload_of_first_grant",
        guard="a handler is called with the payload of its task",
        what="all attempts of one claim get the payload of the first",
        scenario="crowded",
        killers=("S19", "S20"),
        edits=(
            Edit(
                "system/holdfast/store/decoding.py",
                "            grants.append(Grant(**row))\n",
                '            grants.append(Grant(**row | {"payload": rows[0]["payload"]}))\n',
            ),
        ),
    ),
    Mutant(
        name="effect_key_truncated",
        guard="the effect key is unique to the task",
        what="it is the first 13 characters of the id, equal for all tasks of a millisecond",
        scenario="workers_killed",
        killers=("S11",),
        edits=(
            Edit(
                "system/holdfast/handlers/context.py",
                "        return str(self._grant.task_id)\n",
                "        return str(self._grant.task_id)[:13]\n",
            ),
        ),
    ),
    Mutant(
        name="timeout_from_claim",
        guard="an attempt's timeout starts with its handler, however late its claim is answered",
        what="it starts with the claim: an attempt may time out before its handler begins",
        scenario="late_grant",
        killers=("S16", "S19"),
        edits=(Edit(_LIMIT, _BEGAN, "        self._began = self._claimed\n"),),
    ),
    Mutant(
        name="unbegun_charged",
        guard="an attempt that is reclaimed for its age counts only if its handler had begun",
        what="it counts although the worker still waits for the answer to its claim",
        scenario="slow_claim",
        killers=("S15", "S16"),
        edits=(
            Edit(
                "system/holdfast/store/scans.py",
                "alive.id IS NOT NULL\n      AND COALESCE(t.claimed_at > alive.begun_until, true)",
                "alive.begun_until IS NULL AND false",
            ),
        ),
    ),
    Mutant(
        name="stopped_lost",
        guard="a worker that is stopped loses no attempt of a claim without an answer",
        what="such attempts are lost, as those of a worker that was killed",
        scenario="stopped_unanswered",
        killers=("S15", "S19", "S20"),
        edits=(
            Edit(
                "system/holdfast/store/scans.py",
                "CASE dead_reason WHEN 'stopped' THEN COALESCE(begun_until, '-infinity')",
                "CASE dead_reason WHEN 'stopped' THEN 'infinity'::timestamptz",
            ),
        ),
    ),
    Mutant(
        name="stopped_as_begun",
        guard="a worker that stops says until when what it claimed has begun",
        what="it says that everything has",
        scenario="stopped_unanswered",
        killers=("S15", "S19", "S20"),
        edits=(
            Edit(
                "system/holdfast/worker/worker.py",
                "self._beating.retire(self.id, self._executor.begun_until)",
                'self._beating.retire(self.id, __import__("datetime").datetime.max)',
            ),
        ),
    ),
    Mutant(
        name="time_stands_still",
        guard="the time that is left of an attempt runs while its handler does",
        what="it is always the whole timeout",
        scenario="calm",
        killers=("S19",),
        edits=(
            Edit(
                _LIMIT,
                "        return max(0.0, self._began + self.seconds - self._clock())\n",
                "        return self.seconds\n",
            ),
        ),
    ),
    Mutant(
        name="lease_from_answer",
        guard="the lease runs from the sending of the heartbeat",
        what="it runs from the answer",
        scenario="late_heartbeat",
        killers=("S9",),
        edits=(
            Edit(
                "system/holdfast/worker/heartbeat.py",
                "        self._lease.renew(sent)\n",
                "        self._lease.renew(time.monotonic())\n",
            ),
        ),
    ),
    Mutant(
        name="claim_renews_lease",
        guard="only an answered heartbeat renews the lease",
        what="an answered claim renews it too, but not in the database",
        scenario="late_heartbeat",
        killers=("S9",),
        edits=(
            Edit(
                _CLAIMER,
                "                    return claimed, sent\n",
                "                    import time\n\n"
                "                    shutdown.lease.renew(time.monotonic())\n"
                "                    return claimed, sent\n",
            ),
        ),
    ),
)
