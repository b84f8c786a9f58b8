"""Guards of the way to a worker: priority, room, and the streams of several queues."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant

_SCANS = "system/holdfast/store/scans.py"
_HINTS = "system/holdfast/queue/hints.py"

MUTANTS = (
    Mutant(
        name="priority_reversed",
        guard="among due tasks of one queue, higher priority is dispatched first",
        what="the lowest priority is dispatched first",
        scenario="priorities",
        killers=("S25",),
        edits=(
            Edit(
                _SCANS,
                "PARTITION BY queue ORDER BY priority DESC, due_at, id) AS place",
                "PARTITION BY queue ORDER BY priority, due_at, id) AS place",
            ),
        ),
    ),
    Mutant(
        name="newest_due_first",
        guard="of equal priority, what is due earlier is dispatched first",
        what="what is due latest is dispatched first",
        scenario="priorities",
        killers=("S25",),
        edits=(
            Edit(_SCANS, "ORDER BY t.due_at, t.id LIMIT", "ORDER BY t.due_at DESC, t.id LIMIT"),
            Edit(
                _SCANS, "BY priority DESC, due_at, id) AS", "BY priority DESC, due_at DESC, id) AS"
            ),
        ),
    ),
    Mutant(
        name="limit_before_ranking",
        guard="the room is filled with the best of all due tasks",
        what="the due tasks of a priority are limited in the order of their submit, then ranked",
        scenario="priorities",
        killers=("S25",),
        edits=(Edit(_SCANS, "ORDER BY t.due_at, t.id LIMIT", "ORDER BY t.id LIMIT"),),
    ),
    Mutant(
        name="room_per_priority",
        guard="all priorities of a queue share its room",
        what="each priority fills the room of its own",
        scenario="priorities",
        killers=("S17",),
        edits=(Edit(_SCANS, "  WHERE place <= free),", "  WHERE place >= 1),"),),
    ),
    Mutant(
        name="room_across_queues",
        guard="the room of a queue is reduced by its own QUEUED tasks",
        what="the QUEUED tasks of all queues count: a full queue starves the others",
        scenario="priorities",
        killers=("S26",),
        edits=(
            Edit(
                _SCANS,
                "WHERE t.state = '{State.QUEUED}' AND t.queue = q.queue))) AS free",
                "WHERE t.state = '{State.QUEUED}'))) AS free",
            ),
        ),
    ),
    Mutant(
        name="hint_in_default_stream",
        guard="a hint is published in the stream of its task's queue",
        what="all hints are published in that of the queue `default`",
        scenario="priorities",
        killers=("S9",),
        edits=(
            Edit(
                _HINTS,
                "pipeline.xadd(self._stream(hint.queue), fields,",
                'pipeline.xadd(self._stream("default"), fields,',
            ),
        ),
    ),
    Mutant(
        name="default_queue_always_read",
        guard="a worker runs only tasks of the queues it was given",
        what="it also reads the queue `default`",
        scenario="priorities",
        killers=("S9",),
        edits=(
            Edit(
                "system/holdfast/worker/worker.py",
                "        self.id = uuid4()\n",
                "        self.id = uuid4()\n"
                '        queues = tuple(dict.fromkeys([*settings.queues, "default"]))\n'
                '        settings = settings.model_copy(update={"queues": queues})\n',
            ),
        ),
    ),
    Mutant(
        name="slots_per_queue",
        guard="hints are read per queue, with a share of the count each",
        what="as many hints as there are free slots are read from each queue",
        scenario="crowded",
        killers=("S9",),
        edits=(Edit(_HINTS, "count=count // len(queues),", "count=count,"),),
    ),
)
