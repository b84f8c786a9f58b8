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

_TOLD = (
    Mutant(
        name="create_untold",
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
        name="sends_untold",
        guard="every publishing of a hint emits a span",
        what="no span shows it",
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
        name="take_back_untold",
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
        name="queued_untold",
        guard="a claim emits a span of the time its hint waited",
        what="the wait has no span",
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
        name="zombie_tells_too",
        guard="a worker whose end was refused emits no span of its attempt",
        what="it emits one too, beside the take-back",
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
        name="traceparent_forgotten_on_retry",
        guard="all attempts of a task are in the trace of its row",
        what="a retry begins a trace of its own",
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
        name="attempt_id_of_its_own",
        guard="the id of an attempt's span is derived from task and epoch",
        what="the worker draws a random one that the take-back cannot know",
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
        guard="an attempt is linked to the batch of the scheduler that its hint was in",
        what="its batch cannot be found",
        scenario="calm",
        killers=("S13",),
        edits=(Edit(_ATTEMPT, _LINKS, "    return before\n"),),
    ),
    Mutant(
        name="handler_outside",
        guard="spans of a handler are below its attempt",
        what="they are below the create, beside the attempts",
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
        guard="a process that stops gracefully first exports its spans",
        what="they are lost",
        scenario="rolling_restart",
        killers=("S13",),
        edits=(Edit(_TELEMETRY, "        await telemetry.tracing.aclose()\n", "        pass\n"),),
    ),
    Mutant(
        name="export_in_line",
        guard="tracing never waits for the collector",
        what="an attempt frees its slot when its spans are delivered",
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

MUTANTS = (*_TOLD, *_PLACED, *_EXPORTED)

UNPLANTED = (
    Unplanted(
        "a batch of spans that could not be sent is tried once more",
        _EXPORT,
        "S13 exempts spans lost to a fault of the collector; tests/unit/test_tracing_export.py",
    ),
    Unplanted(
        "the queue of spans is bounded: what finds no room is dropped and counted",
        _EXPORT,
        "without it only memory grows, while the collector is away; "
        "tests/unit/test_tracing_export.py",
    ),
    Unplanted(
        "an answer that never ends is broken off",
        _EXPORT,
        "the chaos collector is honest; tests/unit/test_tracing_export.py has one that lies",
    ),
    Unplanted(
        "the caller's traceparent is honoured, and decides whether its task is sampled",
        _REQUESTS,
        "clients of the arena send none: the ratio decides; tests/api has them",
    ),
    Unplanted(
        "failures are recorded by type, without payloads and messages",
        _ATTEMPTS,
        "no invariant looks for secrets; tests look for them",
    ),
)
