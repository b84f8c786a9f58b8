"""Guards of a granted attempt: its payload and effect key, where its time and its lease begin."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant

_CLAIMER = "system/holdfast/worker/claimer.py"
_STARTED = "                sent - grant.running_seconds,\n"

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
                '            row["payload"] = json_value(row["payload"])\n            grants',
                '            row["payload"] = json_value(rows[0]["payload"])\n            grants',
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
        name="timeout_from_due",
        guard="an attempt's timeout starts with its claim, however long the task waited",
        what="it starts when the task is due",
        scenario="crowded",
        killers=("S16", "S19", "S20"),
        edits=(
            Edit(
                _CLAIMER,
                _STARTED,
                "                sent - grant.running_seconds - grant.waited_seconds,\n",
            ),
        ),
    ),
    Mutant(
        name="timeout_from_resend",
        guard="an attempt's timeout starts with the claim that was granted, not with a resent one",
        what="it starts with the last send of the claim",
        scenario="replies_lost",
        killers=("S19",),
        edits=(Edit(_CLAIMER, _STARTED, "                sent,\n"),),
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
