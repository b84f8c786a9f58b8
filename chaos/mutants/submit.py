"""Guards of storing new tasks: ``store/submit.py``."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_FILE = "system/holdfast/store/submit.py"

MUTANTS = (
    Mutant(
        name="submit_without_conflict",
        guard="a used key does not fail the statement (ON CONFLICT DO NOTHING)",
        what="the unique index fails the statement, and with it the request",
        scenario="crowded",
        killers=("S10",),
        edits=(
            Edit(
                _FILE,
                "  ON CONFLICT DO NOTHING\n  RETURNING id, key_namespace,",
                "  RETURNING id, key_namespace,",
            ),
        ),
    ),
    Mutant(
        name="key_not_stored",
        guard="an idempotency key makes one task (the unique index)",
        what="tasks are stored without their key",
        scenario="crowded",
        killers=("S10",),
        edits=(
            Edit(
                _FILE,
                "SELECT id, key_namespace, idempotency_key, fingerprint,\n    CAST(",
                "SELECT id, key_namespace, NULL, fingerprint,\n    CAST(",
            ),
        ),
    ),
    Mutant(
        name="due_immediately",
        guard="a task is due at its run_at",
        what="every task is due as soon as it is stored",
        scenario="crowded",
        killers=("S3",),
        edits=(
            Edit(
                _FILE,
                "GREATEST(input.run_at, now), '{State.SCHEDULED}'",
                "now, '{State.SCHEDULED}'",
            ),
        ),
    ),
    Mutant(
        name="mismatch_accepted",
        guard="a different request under a used key is refused (the fingerprint)",
        what="it is answered with the task of the first request",
        scenario="crowded",
        killers=("S10",),
        edits=(
            Edit(
                _FILE,
                "            same = fingerprint == task.fingerprint\n",
                "            same = fingerprint is not None\n",
            ),
        ),
    ),
    Mutant(
        name="repeat_judged_by_neighbour",
        guard="a repeat in a batch is judged by the request stored under the key",
        what="a repeat is refused because a mismatch is in the same statement",
        scenario="used_keys",
        killers=("S10",),
        runs_max=6,
        edits=(
            Edit(
                _FILE,
                "standing.get(leader.id, leader.fingerprint)\n",
                "leader.fingerprint and answers[leader.id].outcome != 'mismatch'\n",
            ),
        ),
    ),
    Mutant(
        name="loser_answered_own_id",
        guard="the loser of a race for a key gets the winner's task (the second statement)",
        what="the loser is answered with an id that was never stored",
        scenario="crowded",
        killers=("S5", "S10"),
        edits=(
            Edit(
                _FILE,
                "            before, fingerprint = by_key[key]\n",
                "            before, fingerprint = by_key[key]\n"
                "            before = before._replace(id=task.id)\n",
            ),
        ),
    ),
)

UNPLANTED = (
    Unplanted(
        "of two submits with one key in one batch, the first is stored",
        _FILE,
        "equivalent: ON CONFLICT DO NOTHING also detects rows of its own statement",
    ),
    Unplanted(
        "an id that is already stored was sent before: created",
        _FILE,
        "covered by the key, which every request of the workload has",
    ),
    Unplanted(
        "rounds: a key whose task was deleted between the two statements is inserted again",
        _FILE,
        "no task is old enough to be deleted in a short run",
    ),
)
