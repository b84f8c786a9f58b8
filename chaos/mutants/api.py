"""Guards of the API (``api/``) and of the commit itself (``store/database.py``)."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_SUBMITS = "system/holdfast/api/submit.py"
_ACTIONS = "system/holdfast/api/cancel_retry.py"
_VALIDATION = "system/holdfast/api/validation.py"
_COALESCER = "system/holdfast/api/coalescer.py"

_ANSWER_BEFORE_STORE = Mutant(
    name="answer_before_store",
    guard="201 is sent after the task is stored",
    what="a submit is answered 201 while its statement is in flight",
    scenario="crowded",
    killers=("S5", "S10", "S12"),
    edits=(
        Edit(
            "system/holdfast/api/submit.py",
            "    outcome = (await services.coalescer.submit([task]))[0]\n",
            """\
    import asyncio
    from datetime import UTC, datetime

    from holdfast.model.lifecycle import State
    from holdfast.model.task import TaskRow

    storing = asyncio.ensure_future(services.coalescer.submit([task]))
    storing.add_done_callback(lambda done: done.cancelled() or done.exception())
    now = datetime.now(UTC)
    outcome = Submitted(
        "created",
        TaskRow(
            id=task.id, key_namespace=task.key_namespace, queue=task.queue, priority=task.priority,
            name=task.name, payload=task.payload, idempotency_key=task.idempotency_key,
            traceparent=task.traceparent, run_at=task.run_at or now, due_at=task.run_at or now,
            state=State.SCHEDULED, epoch=0, seq=0, attempt=0, losses=0, handed_back=0,
            max_attempts=5, max_losses=3, timeout_seconds=300.0, cancel_requested=False,
            worker_id=None, claimed_at=None, created_at=now, finished_at=None,
        ),
    )
""",
        ),
    ),
)

MUTANTS = (
    _ANSWER_BEFORE_STORE,
    Mutant(
        name="unknown_queue_accepted",
        guard="a task is accepted only in a queue that a worker ever announced, or a setting names",
        what="any queue is accepted",
        scenario="crowded",
        killers=("S24",),
        edits=(
            Edit(
                _VALIDATION,
                "        if await self._queues.contains(queue):\n",
                "        if queue or await self._queues.contains(queue):\n",
            ),
        ),
    ),
    Mutant(
        name="known_queues_setting_ignored",
        guard="the queues of HOLDFAST_KNOWN_QUEUES take tasks before any worker reads them",
        what="only announced queues are known",
        scenario="crowded",
        killers=("S24",),
        edits=(
            Edit(_VALIDATION, "{DEFAULT_QUEUE, *settings.known_queues}", "{DEFAULT_QUEUE}"),
            Edit(
                "system/holdfast/scheduler/scheduler.py",
                "if self._settings.known_queues:",
                "if False:",
            ),
        ),
    ),
    Mutant(
        name="commit_in_memory",
        guard="201 is sent after a COMMIT that survives a crash (synchronous_commit)",
        what="commits are answered before they are durable",
        scenario="database_restart",
        killers=("S1", "S2", "S4", "S5", "S6", "S8", "S10", "S11", "S12"),
        edits=(
            Edit(
                "system/holdfast/store/connections.py",
                '"server_settings": {"application_name": name},',
                '"server_settings": {"application_name": name, "synchronous_commit": "off"},',
            ),
        ),
    ),
    Mutant(
        name="too_late_answered_as_cancelled",
        guard="a late cancel is answered as such (409)",
        what="it is answered 200",
        scenario="calm",
        killers=("S4",),
        edits=(
            Edit(
                _ACTIONS,
                "    if not answer.done:\n"
                '        detail = f"Task {task_id} is {answer.state} and can no longer',
                "    if answer is None:\n"
                '        detail = f"Task {task_id} is {answer.state} and can no longer',
            ),
        ),
    ),
    Mutant(
        name="request_answered_as_cancelled",
        guard="a cancel of a running task is answered as a request (202)",
        what="it is answered 200",
        scenario="crowded",
        killers=("S4",),
        edits=(Edit(_ACTIONS, "202 if answer.state is State.RUNNING else 200", "200"),),
    ),
    Mutant(
        name="unknown_submit_under_new_key",
        guard="a submit of unknown outcome is resent unchanged: the same ids and keys",
        what="its COMMIT is taken as failed: it is resent as another task under a new key",
        scenario="commit_reply_lost",
        killers=("S2", "S10"),
        edits=(
            Edit(
                _COALESCER,
                "    for entry in group:\n        entry.unknown = True\n",
                """\
    from dataclasses import replace

    from holdfast.model.ids import new_id

    for entry in group:
        entry.unknown = True
        key = f"{entry.task.idempotency_key}-again"
        entry.task = replace(entry.task, id=new_id(), idempotency_key=key)
""",
            ),
        ),
    ),
    Mutant(
        name="unknown_cancel_answered_as_done",
        guard="a cancel of unknown outcome is answered as unknown",
        what="it is answered 200",
        scenario="replies_lost",
        killers=("S22",),
        runs_max=6,
        edits=(
            Edit(
                _ACTIONS,
                '        detail = f"It is unknown whether the task was cancelled: {error}. '
                'Cancel it again."\n',
                "        return Response(status_code=200)\n"
                '        detail = f"It is unknown whether the task was cancelled: {error}."\n',
            ),
        ),
    ),
    Mutant(
        name="keyless_refused",
        guard="only an API with an empty key refuses to start",
        what="one without keys refuses, too",
        scenario="calm",
        killers=("S27",),
        edits=(
            Edit(
                "system/holdfast/api/auth.py",
                "    if not all(secret.get_secret_value().strip() for secret in secrets):\n",
                "    if not any(secret.get_secret_value().strip() for secret in secrets):\n",
            ),
        ),
    ),
)

UNPLANTED = (
    Unplanted(
        "ids are fixed before the first send",
        _COALESCER,
        "covered by the key, which every request of the workload has (key_not_stored)",
    ),
    Unplanted(
        "a request that was sent but not answered is unknown, not refused",
        _COALESCER,
        "clients treat any 5xx as unknown and resend the same key",
    ),
    Unplanted(
        "bounds on waiting requests and on the size of a statement",
        _COALESCER,
        "bounds memory; the workload stays far below (loadtest)",
    ),
    Unplanted(
        "values are counted before they are parsed, and no pointer is built for a sound one",
        "system/holdfast/model/payload.py",
        "bounds memory and turns of the loop; tests/api/test_bounds.py plants both mutants",
    ),
    Unplanted(
        "a page ends at a number of bytes",
        "system/holdfast/store/listing.py",
        "bounds memory; tests/api/test_bounds.py plants the mutant",
    ),
    Unplanted(
        "a client that disconnects does not affect other requests of the statement",
        _COALESCER,
        "uvicorn does not cancel a request whose client is gone; tests/api/test_coalescer.py",
    ),
    Unplanted(
        "a stopping process answers the requests it accepted",
        _COALESCER,
        "without it the client gets no answer: the outcome is unknown and it resends",
    ),
    Unplanted(
        "validation: one key in header and body, shape, size, horizon, known names",
        _SUBMITS,
        "the workload sends only valid requests; covered by tests/api",
    ),
    Unplanted(
        "bounds on heads, on the time of a request and on connections",
        "system/holdfast/runtime/bounded_http.py",
        "the clients of a run send small requests at once; tests/unit/test_bounded_http.py",
    ),
    Unplanted(
        "requests for another Host, or of another Origin, are refused without keys",
        "system/holdfast/runtime/host_guard.py",
        "the clients of a run are no web pages; tests/api/test_request_headers.py",
    ),
    Unplanted(
        "a failed read after an action does not undo the action",
        _ACTIONS,
        "5xx either way",
    ),
    Unplanted(
        "a wakeup after a submit",
        "system/holdfast/api/wakeup.py",
        "reduces latency only: schedulers poll",
    ),
    Unplanted(
        "readiness checks the database and its migrations",
        "system/holdfast/api/readiness.py",
        "reports only",
    ),
    Unplanted(
        "a statement that was not certainly refused has an unknown outcome (classify)",
        "system/holdfast/store/database.py",
        "the loops resend in both cases, and clients treat any 5xx as unknown",
    ),
    Unplanted(
        "deadlocks are resent",
        "system/holdfast/store/database.py",
        "rows are locked in order, so none occurs; tests/store/test_store_pairs.py",
    ),
    Unplanted(
        "after an unanswered statement no connection is used that has not answered since",
        "system/holdfast/store/connections.py",
        "without it only slower: one timeout for each; tests/store/test_connections.py",
    ),
    Unplanted(
        "behind a pooler each statement is sent as a whole",
        "system/holdfast/store/connections.py",
        "behind_pgbouncer needs real time; tests/store/test_connections.py",
    ),
    Unplanted(
        "a batch that Postgres cancels is halved",
        "system/holdfast/store/resend.py",
        "the lock that cancelled it is soon free; tests/scheduler/test_scheduler_limits.py",
    ),
    Unplanted(
        "a connection that was closed while pooled is not used",
        "system/holdfast/store/connections.py",
        "without it only slower: its statement counts as unknown and is resent",
    ),
)
