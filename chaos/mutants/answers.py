"""Guards of what clients are told: GET, lists, events, cancel, retry, and errors."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant

_RESPONSES = "system/holdfast/api/responses.py"
_READ = "system/holdfast/api/read.py"
_ACTIONS = "system/holdfast/api/cancel_retry.py"
_COALESCER = "system/holdfast/api/coalescer.py"
_LISTING = "system/holdfast/store/listing.py"
_TRANSITIONS = "system/holdfast/store/transitions.py"

_TASKS = (
    Mutant(
        name="get_one_event_behind",
        guard="a GET shows the state of the row",
        what="it shows the state before the last event",
        scenario="calm",
        killers=("S22",),
        edits=(
            Edit(
                _RESPONSES,
                '    return {**task_json(story.task), "result": result,',
                "    shown = story.events[max(0, len(story.events) - 2)].to_state\n"
                '    return {**task_json(story.task), "state": shown, "result": result,',
            ),
        ),
    ),
    Mutant(
        name="get_cached",
        guard="a GET reads the database",
        what="it is answered from a cache of one second",
        scenario="calm",
        killers=("S22",),
        edits=(
            Edit(
                _READ,
                "    story = await services.store.get(task_id)\n",
                """\
    import asyncio

    now = asyncio.get_running_loop().time()
    at, story = _RECENT.get(task_id, (now, None))
    if story is None or now - at > 1:
        story = await services.store.get(task_id)
        _RECENT[task_id] = now, story
""",
            ),
            Edit(
                _READ,
                "def not_found(task_id: UUID) -> Problem:\n",
                "_RECENT: dict[UUID, tuple[float, TaskStory | None]] = {}\n\n\n"
                "def not_found(task_id: UUID) -> Problem:\n",
            ),
        ),
    ),
    Mutant(
        name="result_of_first_attempt_only",
        guard="a GET of a SUCCEEDED task shows its result",
        what="only if it succeeded in its first attempt",
        scenario="calm",
        killers=("S22",),
        edits=(
            Edit(
                _RESPONSES,
                "story.effect.result) if story.effect else None",
                "story.effect.result) if story.effect and story.effect.attempt == 1 else None",
            ),
        ),
    ),
    Mutant(
        name="last_attempt_shown_open",
        guard="a GET shows the end of every attempt",
        what="the end of the last one is missing",
        scenario="calm",
        killers=("S22",),
        edits=(Edit(_RESPONSES, "_attempts(story.events)}", "_attempts(story.events[:-1])}"),),
    ),
    Mutant(
        name="due_at_of_first_run",
        guard="due_at is when the next attempt is due",
        what="run_at is shown instead, also after a failure",
        scenario="calm",
        killers=("S12", "S21"),
        edits=(Edit(_RESPONSES, '"due_at": row.due_at,', '"due_at": row.run_at,'),),
    ),
)

_EVENTS = (
    Mutant(
        name="events_without_last",
        guard="the events of a task are complete",
        what="the last one is missing",
        scenario="calm",
        killers=("S22",),
        edits=(
            Edit(
                _READ,
                "[responses.event_json(event) for event in events]",
                "[responses.event_json(event) for event in events[:-1]]",
            ),
        ),
    ),
    Mutant(
        name="events_newest_first",
        guard="the events of a task are listed oldest first",
        what="they are listed newest first",
        scenario="calm",
        killers=("S22",),
        edits=(
            Edit(
                _READ,
                "[responses.event_json(event) for event in events]",
                "[responses.event_json(event) for event in reversed(events)]",
            ),
        ),
    ),
)

_LISTS = (
    Mutant(
        name="list_oldest_first",
        guard="tasks are listed newest first",
        what="they are listed oldest first",
        scenario="calm",
        killers=("S23",),
        edits=(
            Edit(_LISTING, "ORDER BY id DESC LIMIT 1) newest", "ORDER BY id LIMIT 1) newest"),
            Edit(
                _LISTING,
                "id < page.id ORDER BY id DESC LIMIT 1) next",
                "id > page.id ORDER BY id LIMIT 1) next",
            ),
        ),
    ),
    Mutant(
        name="page_skips_one",
        guard="a page follows the last task of the previous one",
        what="one task is missing between two pages",
        scenario="calm",
        killers=("S23",),
        edits=(
            Edit(
                _READ,
                "    following = cursor.encode(wanted, rows[-1].id) if more else None\n",
                "    following = cursor.encode(wanted, rows[-1].id) if more else None\n"
                "    rows = rows[:-1] if more else rows\n",
            ),
        ),
    ),
    Mutant(
        name="page_repeats_one",
        guard="a page begins after the cursor",
        what="it begins with the last task of the previous page",
        scenario="calm",
        killers=("S23",),
        edits=(Edit(_LISTING, "id < CAST(:before AS uuid)", "id <= CAST(:before AS uuid)"),),
    ),
    Mutant(
        name="list_ignores_queue",
        guard="a list is filtered by queue",
        what="the filter is accepted and ignored",
        scenario="calm",
        killers=("S23",),
        edits=(
            Edit(
                _LISTING,
                '        ("queue = CAST(:queue AS text)", "queue", wanted.queue),\n',
                "",
            ),
        ),
    ),
    Mutant(
        name="list_of_one_state",
        guard="a list may be filtered by several states",
        what="only the first of them counts",
        scenario="calm",
        killers=("S23",),
        edits=(
            Edit(
                _LISTING,
                "[str(s) for s in wanted.states]",
                "[str(s) for s in wanted.states[:1]]",
            ),
        ),
    ),
)

_CHANGES = (
    Mutant(
        name="cancel_answered_by_earlier_read",
        guard="a cancel is answered with the task after it",
        what="the task is read before the cancel",
        scenario="crowded",
        killers=("S22",),
        edits=(
            Edit(
                _ACTIONS,
                "        answer = (await services.store.cancel([task_id], services.actor))[0]\n",
                "        before = await read_story(services, task_id)\n"
                "        answer = (await services.store.cancel([task_id], services.actor))[0]\n",
            ),
            Edit(
                _ACTIONS,
                "    return await _respond(services, task_id, "
                "202 if answer.state is State.RUNNING else 200)\n",
                "    return responses.json_response(\n"
                "        responses.story_json(before), 202 if answer.state is State.RUNNING "
                "else 200\n    )\n",
            ),
        ),
    ),
    Mutant(
        name="conflict_with_wrong_state",
        guard="a late cancel is answered with the state of the task",
        what="the state is always SUCCEEDED",
        scenario="calm",
        killers=("S24",),
        edits=(
            Edit(
                _ACTIONS,
                'can no longer be cancelled."\n'
                "        raise Problem(problems.CONFLICT, detail, state=answer.state)\n",
                'can no longer be cancelled."\n'
                "        raise Problem(problems.CONFLICT, detail, state=State.SUCCEEDED)\n",
            ),
        ),
    ),
    Mutant(
        name="retry_of_losses_only",
        guard="a retry that is answered 200 schedules the task",
        what="a task that was never lost stays FAILED",
        scenario="calm",
        killers=("S24",),
        edits=(
            Edit(
                _TRANSITIONS,
                "  FROM locked WHERE t.id = locked.id AND locked.state = '{State.FAILED}'\n",
                "  FROM locked WHERE t.id = locked.id AND locked.state = '{State.FAILED}'\n"
                "    AND locked.losses > 0\n",
            ),
            Edit(
                _TRANSITIONS,
                "  updated.id IS NOT NULL AS done\n",
                "  COALESCE(locked.state = '{State.FAILED}', false) AS done\n",
            ),
        ),
    ),
    Mutant(
        name="retry_forgets_losses",
        guard="a retry keeps the counters",
        what="it sets losses to 0, so they count as failures",
        scenario="workers_killed",
        killers=("S7",),
        edits=(
            Edit(
                _TRANSITIONS,
                "    due_at = clock_timestamp(), cancel_requested = false,\n",
                "    due_at = clock_timestamp(), cancel_requested = false, losses = 0,\n",
            ),
        ),
    ),
    Mutant(
        name="retry_keeps_limit",
        guard="a retry allows one more attempt than were used",
        what="max_attempts is not raised",
        scenario="calm",
        killers=("S7", "S18"),
        edits=(
            Edit(
                _TRANSITIONS,
                "    max_attempts = GREATEST(\n"
                "      locked.max_attempts, locked.attempt - locked.losses - locked.handed_back "
                "+ 1),\n",
                "    max_attempts = locked.max_attempts,\n",
            ),
        ),
    ),
)

_ERRORS = (
    Mutant(
        name="unanswered_submit_nothing_done",
        guard="`nothing was done` is answered only if nothing was",
        what="a submit that Postgres did not answer in time is answered so",
        scenario="commit_reply_lost",
        killers=("S24",),
        edits=(
            Edit(
                _COALESCER,
                'def _unanswered() -> OutcomeUnknown:\n    return OutcomeUnknown("the database',
                'def _unanswered() -> Unavailable:\n    return Unavailable("the database',
            ),
        ),
    ),
    Mutant(
        name="resent_submit_nothing_done",
        guard="a submit that was sent once stays unknown when it cannot be sent again",
        what="it is answered by the error of its last send: nothing was done",
        scenario="commit_reply_lost",
        killers=("S24",),
        edits=(
            Edit(
                _COALESCER,
                "        entry.settle(_unanswered() if entry.unknown else error)\n",
                "        entry.settle(error)\n",
            ),
        ),
    ),
    Mutant(
        name="unknown_cancel_nothing_done",
        guard="a cancel of unknown outcome is not answered as `nothing was done`",
        what="it is answered 503 unavailable",
        scenario="replies_lost",
        killers=("S4",),
        edits=(
            Edit(
                _ACTIONS,
                'Cancel it again."\n        raise Problem(problems.OUTCOME_UNKNOWN,',
                'Cancel it again."\n        raise Problem(problems.UNAVAILABLE,',
            ),
        ),
    ),
)

MUTANTS = (*_TASKS, *_EVENTS, *_LISTS, *_CHANGES, *_ERRORS)
