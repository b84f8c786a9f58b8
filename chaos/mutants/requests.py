"""Guards of a request: stored exactly as asked, compared whole when its key is used again."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant

_SUBMISSION = "system/holdfast/store/submit.py"
_REQUEST = "system/holdfast/model/request.py"
_TASK = "system/holdfast/model/task.py"
_ROUTES = "system/holdfast/api/submit.py"
_AUTH = "system/holdfast/api/auth.py"
_DEPENDENCIES = "system/holdfast/api/dependencies.py"

_STORED = (
    Mutant(
        name="priorities_of_others",
        guard="each task of a statement is stored with its own priority",
        what="priorities are sorted, the other columns are not: tasks get each other's",
        scenario="used_keys",
        killers=("S18",),
        edits=(
            Edit(
                _SUBMISSION,
                "[task.priority for task in tasks]",
                "sorted(task.priority for task in tasks)",
            ),
        ),
    ),
    Mutant(
        name="timeouts_of_others",
        guard="each task of a statement is stored with its own timeout",
        what="timeouts are in reverse order: tasks get each other's",
        scenario="used_keys",
        killers=("S18", "S19"),
        edits=(
            Edit(
                _SUBMISSION,
                "[task.timeout_seconds for task in tasks]",
                "[task.timeout_seconds for task in reversed(tasks)]",
            ),
        ),
    ),
    Mutant(
        name="queue_of_first",
        guard="each task of a statement is stored in its own queue",
        what="all are stored in the queue of the first",
        scenario="used_keys",
        killers=("S18",),
        edits=(
            Edit(
                _SUBMISSION,
                "[task.queue for task in tasks]",
                "[tasks[0].queue for _ in tasks]",
            ),
        ),
    ),
    Mutant(
        name="run_at_in_whole_seconds",
        guard="run_at is stored with its fraction of a second",
        what="it is truncated to whole seconds",
        scenario="crowded",
        killers=("S3", "S10"),
        edits=(
            Edit(
                _SUBMISSION,
                "[task.run_at for task in tasks]",
                "[task.run_at and task.run_at.replace(microsecond=0) for task in tasks]",
            ),
        ),
    ),
    Mutant(
        name="one_attempt_more_stored",
        guard="max_attempts is stored as asked",
        what="one more is stored",
        scenario="calm",
        killers=("S7", "S10"),
        edits=(
            Edit(
                _SUBMISSION,
                "COALESCE(input.max_attempts, a.max_attempts,",
                "COALESCE(input.max_attempts + 1, a.max_attempts,",
            ),
        ),
    ),
    Mutant(
        name="attempts_capped_by_default",
        guard="a request may ask for more attempts than the default",
        what="the default is also the maximum",
        scenario="storm",
        killers=("S7", "S10"),
        edits=(
            Edit(
                _SUBMISSION,
                "COALESCE(input.max_attempts, a.max_attempts,",
                "COALESCE(LEAST(input.max_attempts, CAST(:default_attempts AS int)),"
                " a.max_attempts,",
            ),
        ),
    ),
    Mutant(
        name="one_loss_more_stored",
        guard="max_losses is stored as configured",
        what="one more is stored, so every later bound reads it from the row",
        scenario="poison_task",
        killers=("S7", "S15"),
        edits=(
            Edit(
                _SUBMISSION,
                "COALESCE(max_losses, CAST(:default_losses AS int)),",
                "COALESCE(max_losses, CAST(:default_losses AS int) + 1),",
            ),
        ),
    ),
)

_KEYS = (
    Mutant(
        name="key_without_case",
        guard="keys that differ in case are different keys",
        what="keys are folded to lower case",
        scenario="used_keys",
        killers=("S18",),
        edits=(
            Edit(
                _REQUEST,
                "idempotency_key=request.idempotency_key,",
                "idempotency_key=request.idempotency_key and request.idempotency_key.lower(),",
            ),
        ),
    ),
    Mutant(
        name="key_without_namespace",
        guard="a key of another named API key is another key",
        what="all names share one namespace: a request is answered with the task of another name",
        scenario="rotated_keys",
        killers=("S10",),
        edits=(
            Edit(
                _DEPENDENCIES,
                "request.scope.get(NAME_KEY, DEFAULT_NAMESPACE)",
                "DEFAULT_NAMESPACE",
            ),
        ),
    ),
    Mutant(
        name="namespace_of_secret",
        guard="the namespace of a key is the name of the API key, whichever secret is sent",
        what="it is the secret: a request resent after a rotation makes a second task",
        scenario="rotated_keys",
        killers=("S10",),
        edits=(
            Edit(
                _AUTH,
                "secret.get_secret_value().encode()): name\n",
                "secret.get_secret_value().encode()): secret.get_secret_value()\n",
            ),
        ),
    ),
    Mutant(
        name="fingerprint_without_priority",
        guard="a request with another priority is another request",
        what="the fingerprint lacks the priority",
        scenario="used_keys",
        killers=("S10",),
        edits=(
            Edit(
                _TASK,
                "(self.name, payload, self.queue, self.priority, instant)",
                "(self.name, payload, self.queue, instant)",
            ),
        ),
    ),
    Mutant(
        name="fingerprint_without_queue",
        guard="a request for another queue is another request",
        what="the fingerprint lacks the queue",
        scenario="used_keys",
        killers=("S10",),
        edits=(
            Edit(
                _TASK,
                "(self.name, payload, self.queue, self.priority, instant)",
                "(self.name, payload, self.priority, instant)",
            ),
        ),
    ),
    Mutant(
        name="fingerprint_without_timeout",
        guard="a request with another timeout is another request",
        what="the fingerprint lacks the timeout",
        scenario="used_keys",
        killers=("S10",),
        edits=(
            Edit(
                _TASK,
                "limits = (self.max_attempts, self.timeout_seconds)",
                "limits = (self.max_attempts,)",
            ),
        ),
    ),
    Mutant(
        name="fingerprint_without_run_at",
        guard="a request with another run_at is another request",
        what="the fingerprint has only the day of run_at",
        scenario="used_keys",
        killers=("S10",),
        edits=(
            Edit(
                _TASK,
                "self.run_at.isoformat() if self.run_at",
                "self.run_at.date().isoformat() if self.run_at",
            ),
        ),
    ),
    Mutant(
        name="payload_overwritten_by_repeat",
        guard="a request under a used key changes nothing",
        what="its payload replaces the stored one",
        scenario="used_keys",
        killers=("S10", "S18"),
        edits=(
            Edit(
                _SUBMISSION,
                "  ON CONFLICT DO NOTHING\n  RETURNING id, key_namespace,",
                "  ON CONFLICT (key_namespace, idempotency_key) WHERE idempotency_key IS NOT NULL\n"
                "  DO UPDATE SET payload = EXCLUDED.payload\n"
                "  RETURNING requests.id, requests.key_namespace,",
            ),
        ),
    ),
    Mutant(
        name="repeat_answered_as_new",
        guard="a repeat is answered with the task as it is now",
        what="it is answered as at its submit: SCHEDULED, without attempts",
        scenario="crowded",
        killers=("S22",),
        edits=(
            Edit(
                _SUBMISSION,
                "            same = fingerprint == task.fingerprint\n",
                "            same = fingerprint == task.fingerprint\n"
                "            from holdfast.model.lifecycle import State\n\n"
                "            before = before._replace(\n"
                "                state=State.SCHEDULED, attempt=0, epoch=0, finished_at=None\n"
                "            )\n",
            ),
        ),
    ),
    Mutant(
        name="answers_in_order_of_storage",
        guard="the answers of a statement are in the order of its tasks",
        what="they are in the order in which the tasks were stored or found",
        scenario="used_keys",
        killers=("S5", "S10"),
        edits=(
            Edit(
                _SUBMISSION,
                "    return [answers[task.id] for task in tasks]\n",
                "    return list(answers.values())\n",
            ),
        ),
    ),
)

_BATCHES = (
    Mutant(
        name="refusals_first_in_batch",
        guard="the results of a batch are in the order of its items",
        what="the refused items come first",
        scenario="crowded",
        killers=("S22",),
        edits=(Edit(_ROUTES, "for index in sorted(results)]", "for index in results]"),),
    ),
    Mutant(
        name="batch_refused_whole",
        guard="an invalid item of a batch is refused alone",
        what="the whole batch is refused because of it",
        scenario="crowded",
        killers=("S24",),
        edits=(
            Edit(
                _ROUTES,
                "                except Problem as problem:\n"
                "                    refused[index] = _refused(index, problem)\n",
                "                except Problem:\n                    raise\n",
            ),
        ),
    ),
)

MUTANTS = (*_STORED, *_KEYS, *_BATCHES)
