"""Guards of telemetry: ``instrumentation/`` and the export of spans."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_SUBMITS = "system/holdfast/instrumentation/tasks.py"
_DISPATCHES = "system/holdfast/instrumentation/scheduler.py"
_ATTEMPTS = "system/holdfast/instrumentation/worker.py"
_ATTEMPT = "system/holdfast/instrumentation/attempt_span.py"
_REQUESTS = "system/holdfast/instrumentation/requests.py"
_TELEMETRY = "system/holdfast/instrumentation/telemetry.py"
_EXPORT = "system/holdfast/telemetry/export.py"

_LINKS = "    return (*before, batch) if batch is not None else before\n"

_EMITTED = (
    Mutant(
        name="create_without_span",
        guard="a submit emits the root span of its task",
        what="its context is in the row, but no span is emitted",
        scenario="calm",
        killers=("S13",),
        edits=(
            Edit(
                _SUBMITS,
                "                self._create(task, outcome, request, began)\n",
                "                pass\n",
            ),
        ),
    ),
    Mutant(
        name="sends_without_span",
        guard="every published hint emits a span",
        what="no span is emitted",
        scenario="calm",
        killers=("S13",),
        edits=(
            Edit(
                _DISPATCHES,
                "                self._send(name, task, batch, sent, error)\n",
                "                pass\n",
            ),
        ),
    ),
    Mutant(
        name="reclaim_without_span",
        guard="the scheduler that reclaims an attempt emits its span",
        what="an attempt whose worker was killed has no span",
        scenario="workers_killed",
        killers=("S13",),
        edits=(
            Edit(
                _DISPATCHES,
                "                self._attempt(attempt, sweep)\n",
                "                pass\n",
            ),
        ),
    ),
    Mutant(
        name="queued_without_span",
        guard="a claim emits a span for the wait in the queue",
        what="no span is emitted",
        scenario="calm",
        killers=("S13",),
        edits=(
            Edit(
                _ATTEMPTS,
                "        if span is not None:\n            span.queued(",
                "        if False:\n            span.queued(",
            ),
        ),
    ),
    Mutant(
        name="zombie_emits_span",
        guard="a worker whose end was refused emits no span of its attempt",
        what="it emits one in addition to the reclaim's",
        scenario="late_finish",
        killers=("S13",),
        edits=(
            Edit(
                _ATTEMPTS,
                "            span.refused()\n",
                "            reason = _reason(end, answer.state)\n"
                "            span.ended(reason, answer.state, delay_seconds=0.0, error=None)\n",
            ),
        ),
    ),
)

_PLACED = (
    Mutant(
        name="retry_in_new_trace",
        guard="all attempts of a task are in the trace of its row",
        what="a retry starts a new trace",
        scenario="workers_killed",
        killers=("S13",),
        edits=(
            Edit(
                _ATTEMPTS,
                "        create = traceparent.parse(attempt.traceparent)\n",
                "        create = traceparent.parse(attempt.traceparent)\n"
                "        if attempt.attempt > 1:\n"
                "            create = self._tracing.sampled_root()\n",
            ),
        ),
    ),
    Mutant(
        name="random_attempt_span_id",
        guard="the id of an attempt's span is derived from task and epoch",
        what="the worker draws a random id, which the reclaim cannot derive",
        scenario="workers_killed",
        killers=("S13",),
        edits=(
            Edit(
                _ATTEMPT,
                "        self.context = attempt_context(create, attempt.task_id, attempt.epoch)\n",
                "        self.context = tracing.child(create)\n",
            ),
        ),
    ),
    Mutant(
        name="previous_not_linked",
        guard="an attempt is linked to the previous one",
        what="it has no link",
        scenario="workers_killed",
        killers=("S13",),
        edits=(Edit(_ATTEMPT, _LINKS, "    return (batch,) if batch is not None else ()\n"),),
    ),
    Mutant(
        name="batch_not_linked",
        guard="an attempt is linked to the dispatch batch of its hint",
        what="it has no link to the batch",
        scenario="calm",
        killers=("S13",),
        edits=(Edit(_ATTEMPT, _LINKS, "    return before\n"),),
    ),
    Mutant(
        name="handler_spans_outside_attempt",
        guard="spans of a handler are descendants of its attempt",
        what="they are children of the create span, siblings of the attempts",
        scenario="workers_killed",
        killers=("S13",),
        edits=(
            Edit(
                _ATTEMPT,
                "        span = trace.NonRecordingSpan(self.context)\n",
                "        span = trace.NonRecordingSpan(self._create)\n",
            ),
        ),
    ),
)

_EXPORTED = (
    Mutant(
        name="stop_without_export",
        guard="a process exports its spans before a graceful stop",
        what="they are lost",
        scenario="rolling_restart",
        killers=("S13",),
        edits=(Edit(_TELEMETRY, "        await telemetry.tracing.aclose()\n", "        pass\n"),),
    ),
    Mutant(
        name="export_inline",
        guard="tracing never waits for the collector",
        what="an attempt frees its slot only after its spans are delivered",
        scenario="collector_lost",
        killers=("L1", "L2", "L4"),
        edits=(
            Edit(
                "system/holdfast/worker/executor.py",
                "        await attempt.wait_for_thread()\n",
                "        export = self._telemetry._tracing._export\n"
                "        await export._send(export._client)\n"
                "        await attempt.wait_for_thread()\n",
            ),
        ),
    ),
)

_CALLS = (
    Mutant(
        name="sql_without_span",
        guard="each statement of a handler's transaction has a span",
        what="statements have none, the COMMIT has",
        scenario="calm",
        killers=("S13",),
        edits=(
            Edit(
                "system/holdfast/handlers/sql_spans.py",
                "        self._record(context, statement, None)\n",
                "        pass\n",
            ),
        ),
    ),
    Mutant(
        name="transactions_raise",
        guard="the spans of a transaction never disturb it",
        what="each COMMIT raises an AttributeError: name and attributes of its span are swapped",
        scenario="calm",
        killers=("S15", "S20"),
        edits=(
            Edit(
                "system/holdfast/handlers/transactions.py",
                "child_span(commit.span, name, self._of_database, SpanKind.CLIENT)",
                "child_span(commit.span, self._of_database, name, SpanKind.CLIENT)",
            ),
        ),
    ),
)
_COUNTED = (
    Mutant(
        name="repeats_counted_as_created",
        guard="the metric of submits tells created tasks from existing ones",
        what="a repeated submit counts as created",
        scenario="calm",
        killers=("S28",),
        edits=(
            Edit(
                _SUBMITS,
                "submitted.labels(task.queue, outcome.outcome)",
                'submitted.labels(task.queue, "created")',
            ),
        ),
    ),
    Mutant(
        name="waits_from_due",
        guard="the wait in the queue counts from the dispatch",
        what="it counts from the due time",
        scenario="calm",
        killers=("S28",),
        edits=(
            Edit(
                _ATTEMPTS,
                "        queued = (grant.claimed_at - grant.queued_at).total_seconds()\n",
                "        queued = grant.waited_seconds\n",
            ),
        ),
    ),
)
_ANSWERED = (
    Mutant(
        name="metrics_refused",
        guard="a scheduler or worker answers /metrics",
        what="it answers 503",
        scenario="calm",
        killers=("S28",),
        edits=(
            Edit(
                "system/holdfast/runtime/health.py",
                "return Response(text, media_type=content_type)",
                "return Response(text, status_code=503, media_type=content_type)",
            ),
        ),
    ),
    Mutant(
        name="metrics_cut_off",
        guard="the answer to /metrics is a whole exposition",
        what="its last 20 bytes are missing",
        scenario="calm",
        killers=("S28",),
        edits=(
            Edit(
                "system/holdfast/telemetry/metrics.py",
                "return encode(self._exposed), content_type",
                "return encode(self._exposed)[:-20], content_type",
            ),
        ),
    ),
)
MUTANTS = (*_EMITTED, *_PLACED, *_EXPORTED, *_CALLS, *_COUNTED, *_ANSWERED)

UNPLANTED = (
    Unplanted(
        "a batch of spans that could not be sent is sent once more",
        _EXPORT,
        "S13 exempts spans lost to a fault of the collector; tests/unit/test_tracing_export.py",
    ),
    Unplanted(
        "the queue of spans is bounded: spans beyond the bound are dropped and counted",
        _EXPORT,
        "without it only memory grows while the collector is unreachable; "
        "tests/unit/test_tracing_export.py",
    ),
    Unplanted(
        "an endless response of the collector is cut off",
        _EXPORT,
        "the chaos collector sends none; tests/unit/test_tracing_export.py does",
    ),
    Unplanted(
        "the caller's traceparent is used and decides whether its task is sampled",
        _REQUESTS,
        "clients of the testbed send none, so the ratio decides; covered by tests/api",
    ),
    Unplanted(
        "failures are recorded by type, without payload or message",
        _ATTEMPTS,
        "no invariant looks for secrets; tests do",
    ),
)
