"""The source of truth: each method is one transition and one autocommitted SQL statement.

Every method may be called again after OutcomeUnknown: guards make the repetition harmless. Methods
take batches and answer each item. None reads this process's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from holdfast.errors import OutcomeUnknown, Unavailable
from holdfast.model.claim import (
    Announcement,
    Claimed,
    Failure,
    OwnedAttempt,
    ReclaimedAttempt,
    Success,
)
from holdfast.model.dispatch import Backlog, Dispatch, Hint, QueueDepth, Republished
from holdfast.model.ids import id_bound
from holdfast.model.task import (
    ActionResult,
    Answer,
    Event,
    Limits,
    NewTask,
    Submitted,
    TaskFilter,
    TaskRow,
    TaskStory,
)
from holdfast.settings import Settings
from holdfast.store import scans, single, transitions
from holdfast.store.connections import connections_used
from holdfast.store.database import Database
from holdfast.store.decoding import (
    row_to_reclaimed,
    row_to_story,
    row_to_task,
    rows_to_action_results,
    rows_to_answers,
    rows_to_claimed,
    rows_to_dispatch,
    rows_to_events,
)
from holdfast.store.driver import DriverTransaction
from holdfast.store.listing import PAGE_BYTES_MAX, listing
from holdfast.store.qualified import in_schema
from holdfast.store.submit import submission

STORY_EVENTS_MAX = 500  # the latest events of a task that ``get`` reads


class Store:
    """All statements over one small pool. Loops that must not wait for each other use two Stores.

    Every method raises Unavailable (nothing done), OutcomeUnknown (resend the same) or Unstorable
    (Postgres refused a value; ``resend.send_halving`` isolates it).
    """

    def __init__(self, settings: Settings, *, connections: int, application_name: str) -> None:
        self._settings = settings
        self._schema = settings.database_schema
        self._limits = Limits(
            max_attempts=settings.max_attempts,
            timeout_seconds=settings.attempt_timeout_seconds,
            max_losses=settings.max_losses,
        )
        self._database = Database(
            settings, connections=connections, application_name=application_name
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    def connections_used(self) -> int:
        """Return the number of connections in use."""
        return connections_used(self._database.engine)

    # For clients

    async def submit(self, tasks: Sequence[NewTask], actor: str) -> list[Submitted]:
        """Store new tasks, whose queues the caller has checked; return the results in order."""
        queues = {task.queue for task in tasks}
        steps = submission(tasks, actor, self._limits, known_queues=queues)
        sent = 0
        try:
            statement, parameters = next(steps)
            while True:
                rows = await self._database.rows(statement, parameters)
                sent += 1
                statement, parameters = steps.send(rows)
        except StopIteration as done:
            answers: list[Submitted] = done.value
            return answers
        except Unavailable as error:
            if not sent:
                raise
            raise OutcomeUnknown(f"some tasks of the batch may be stored: {error}") from error

    async def get(self, task_id: UUID) -> TaskStory | None:
        """Return a task with its latest events and its effect, from one snapshot; None: no task.

        At most ``STORY_EVENTS_MAX`` events, and none before the details of the later ones have
        1 MiB.
        """
        parameters = {"id": task_id, "events_max": STORY_EVENTS_MAX, "bytes": PAGE_BYTES_MAX}
        rows = await self._database.rows(transitions.STORY, parameters)
        return row_to_story(rows[0]) if rows else None

    async def events(
        self, task_id: UUID, limit: int, after: int = 0
    ) -> tuple[list[Event], bool] | None:
        """Return events with a ``seq`` above ``after``, and whether there are more.

        At most ``limit``, and none after their details have 1 MiB. None if there is no such task.
        """
        parameters = {"id": task_id, "n": limit, "after": after, "bytes": PAGE_BYTES_MAX}
        return rows_to_events(await self._database.rows(transitions.EVENTS, parameters))

    async def list_tasks(
        self, wanted: TaskFilter, limit: int, before: UUID | None = None
    ) -> tuple[list[TaskRow], bool]:
        """Return tasks, newest id first, with ids below ``before``; and whether there are more.

        At most ``limit``, and none after their payloads have 1 MiB.
        """
        statement, parameters = listing(wanted, limit, before, PAGE_BYTES_MAX)
        rows = await self._database.rows(statement, parameters)
        within = [row for row in rows if row.pop("within")]
        return [row_to_task(row) for row in within], len(within) < len(rows)

    async def cancel(self, ids: Sequence[UUID], actor: str) -> list[ActionResult]:
        """Cancel SCHEDULED and QUEUED tasks; request it of RUNNING ones (done, state RUNNING)."""
        parameters = {"ids": _distinct(ids), "actor": actor}
        return rows_to_action_results(await self._database.rows(transitions.CANCEL, parameters))

    async def retry(self, ids: Sequence[UUID], actor: str) -> list[ActionResult]:
        """Move tasks from FAILED to SCHEDULED, due now, with at least one more attempt."""
        parameters = {"ids": _distinct(ids), "actor": actor}
        return rows_to_action_results(await self._database.rows(transitions.RETRY, parameters))

    async def announced(self) -> list[str]:
        """Return every name that a worker announced."""
        return [row["name"] for row in await self._database.rows(transitions.ANNOUNCED)]

    async def known_queues(self) -> list[str]:
        """Return every queue that a worker or a setting announced."""
        return [row["name"] for row in await self._database.rows(transitions.KNOWN_QUEUES)]

    async def clock(self) -> datetime:
        """Return the database's time."""
        rows = await self._database.rows(transitions.CLOCK)
        instant: datetime = rows[0]["clock_timestamp"]
        return instant

    # For schedulers

    async def announce_queues(self, queues: Sequence[str]) -> list[str]:
        """Make queues known that a setting names; return those that were not."""
        rows = await self._database.rows(transitions.ANNOUNCE_QUEUES, {"queues": list(queues)})
        return [row["name"] for row in rows]

    async def dispatch(self, n: int, actor: str) -> Dispatch:
        """Move up to ``n`` due tasks per queue to QUEUED, within the queue's depth limit."""
        parameters = {
            "n": n,
            "scan": n,
            "depth": self._settings.queue_depth_max,
            "deadline": self._settings.hint_deadline_seconds,
            "actor": actor,
        }
        return rows_to_dispatch(await self._database.rows(scans.DISPATCH, parameters))

    async def backlog(self, cap: int) -> Backlog:
        """Return the backlog; every count stops at ``cap``, those of due and QUEUED per queue."""
        rows = await self._database.rows(scans.BACKLOG, {"cap": cap, "scan": cap})
        queues = tuple(
            QueueDepth(row["queue"], row["due"], row["queued"], row["oldest_seconds"])
            for row in rows
            if row["queue"] is not None
        )
        return Backlog(queues, rows[0]["dead_letters"], rows[0]["last_stale_write"])

    async def republish(self, n: int, actor: str) -> list[Republished]:
        """Return up to ``n`` hints not claimed by their deadline, and double their deadlines."""
        parameters = {
            "n": n,
            "deadline": self._settings.hint_deadline_seconds,
            "deadline_max": self._settings.hint_deadline_max_seconds,
            "actor": actor,
        }
        rows = await self._database.rows(scans.REPUBLISH, parameters)
        return [Republished(**row) for row in rows]

    async def restart_hint_deadlines(self, ids: Sequence[UUID]) -> list[UUID]:
        """Restart the hint deadlines of QUEUED tasks, undoubled: Redis did not take the hints.

        Return the ids of those that are QUEUED.
        """
        parameters = {"ids": _distinct(ids), "deadline": self._settings.hint_deadline_seconds}
        rows = await self._database.rows(transitions.RESTART_HINT_DEADLINES, parameters)
        return [row["id"] for row in rows]

    async def expire_hints(self, n: int, since: datetime) -> int:
        """Make up to ``n`` QUEUED tasks due for republishing: Redis lost hints.

        Return how many were found: 0 once all hints published before ``since`` (database's time)
        are due.
        """
        deadline = self._settings.hint_deadline_seconds
        parameters = {"n": n, "since": since, "deadline": deadline}
        return len(await self._database.rows(scans.EXPIRE_HINTS, parameters))

    async def mark_dead(self, n: int, asked: datetime, within_seconds: float) -> list[UUID]:
        """Mark up to ``n`` workers with an expired lease dead, irrevocably; return their ids.

        Mark none if executed later than ``within_seconds`` after ``asked`` (database's clock).
        """
        parameters = {"n": n, "asked": asked, "within": within_seconds}
        rows = await self._database.rows(scans.MARK_DEAD, parameters)
        return [row["id"] for row in rows]

    async def reclaim(self, n: int, actor: str) -> list[ReclaimedAttempt]:
        """End up to ``n`` attempts of dead workers, or far past their timeout.

        The latter only if their worker renewed its lease after the timeout. They are handed back
        uncounted if, by that heartbeat, their handlers may not have begun.
        """
        parameters = {
            "n": n,
            "grace": self._settings.timeout_grace_seconds,
            "lease": self._settings.lease_seconds,
            "actor": actor,
        }
        rows = await self._database.rows(scans.RECLAIM, parameters)
        return [row_to_reclaimed(row) for row in rows]

    async def queues_of_dead_workers(self, n: int, after: UUID) -> dict[UUID, list[str]]:
        """Return the queues of the next ``n`` dead workers with ids above ``after``, in order."""
        parameters = {"n": n, "after": after}
        rows = await self._database.rows(scans.QUEUES_OF_DEAD_WORKERS, parameters)
        return {row["id"]: row["queues"] for row in rows}

    async def dead_workers(self, ids: Sequence[UUID]) -> list[UUID]:
        """Return those of ``ids`` that are marked dead."""
        rows = await self._database.rows(scans.DEAD_WORKERS, {"ids": list(ids)})
        return [row["id"] for row in rows]

    async def prune(self, n: int) -> int:
        """Delete up to ``n`` tasks past their retention, with their events and effects."""
        retention = timedelta(days=self._settings.retention_days)
        dead_letter = timedelta(days=self._settings.dead_letter_retention_days)
        # No task created later is old enough; one day allows for clock skew of the APIs.
        youngest = await self.clock() - min(retention, dead_letter) + timedelta(days=1)
        parameters = {
            "n": n,
            "bound": id_bound(youngest),
            "retention": retention.total_seconds(),
            "dead_letter": dead_letter.total_seconds(),
        }
        rows = await self._database.rows(scans.PRUNE, parameters)
        count: int = rows[0]["count"]
        return count

    async def prune_workers(self, n: int) -> int:
        """Delete up to ``n`` workers dead for the retention that own no task; return the count."""
        parameters = {"n": n, "retention": self._settings.retention_days * 86400}
        return len(await self._database.rows(scans.PRUNE_WORKERS, parameters))

    # For workers

    async def register(
        self,
        worker_id: UUID,
        label: str,
        queues: Sequence[str],
        announcements: Sequence[Announcement],
    ) -> None:
        """Start an incarnation with a new lease; announce its task names and its queues."""
        parameters = {
            "worker": worker_id,
            "label": label,
            "queues": list(queues),
            "lease": self._settings.lease_seconds,
            "names": [a.name for a in announcements],
            "max_attempts": [a.max_attempts for a in announcements],
            "timeouts": [a.timeout_seconds for a in announcements],
        }
        await self._database.rows(transitions.REGISTER, parameters)

    async def heartbeat(
        self, worker_id: UUID, begun_until: datetime | None
    ) -> list[OwnedAttempt] | None:
        """Renew the lease; return the tasks RUNNING under it, None if the incarnation is dead.

        ``begun_until``: the worker knows that no attempt claimed until then (database's clock)
        waits for its beginning. ``reclaim`` does not count attempts that were claimed later.
        """
        parameters = {
            "worker": worker_id,
            "lease": self._settings.lease_seconds,
            "begun_until": begun_until,
        }
        rows = await self._database.rows(transitions.HEARTBEAT, parameters)
        if not rows:
            return None
        return [OwnedAttempt(**row) for row in rows if row["task_id"] is not None]

    async def retire(self, worker_id: UUID, begun_until: datetime | None) -> None:
        """End this incarnation after a graceful stop; ``begun_until`` as for ``heartbeat``."""
        parameters = {"worker": worker_id, "begun_until": begun_until}
        await self._database.rows(transitions.RETIRE, parameters)

    async def claim(
        self, hints: Sequence[Hint], worker_id: UUID, token: UUID, *, exclusive: bool = False
    ) -> Claimed:
        """Grant each hinted task that is still QUEUED under the hint's epoch.

        ``token`` is new for each claim and reused when it is resent: the grants of the first send
        are then returned too. Drop hints that are not in the result; claim ``remaining`` again.

        ``exclusive``: this worker runs nothing else. Only then, and if the database agrees, is one
        quarantined task granted, and no other. While it runs, nothing else is granted.
        """
        epochs = {hint.task_id: hint.epoch for hint in sorted(hints, key=lambda h: h.epoch)}
        parameters = {
            "ids": list(epochs),
            "epochs": list(epochs.values()),
            "worker": worker_id,
            "token": token,
            "actor": worker_actor(worker_id),
            "exclusive": exclusive,
            "bytes": transitions.CLAIM_BYTES_MAX,
        }
        return rows_to_claimed(await self._database.rows(transitions.CLAIM, parameters))

    async def finish(self, successes: Sequence[Success], worker_id: UUID) -> list[Answer]:
        """Move tasks from RUNNING to SUCCEEDED, with a ledger row, if the epoch still matches."""
        if len(successes) == 1:
            parameters = single.finish_one(successes[0], worker_id, worker_actor(worker_id))
            if rows := await self._database.rows(single.FINISH_ONE, parameters):
                return rows_to_answers(rows)
        parameters = _finish_parameters(successes, worker_id)
        return rows_to_answers(await self._database.rows(transitions.FINISH, parameters))

    async def finish_in(
        self, transaction: DriverTransaction, success: Success, worker_id: UUID
    ) -> Answer:
        """Finish one task inside the caller's transaction; errors stay those of SQLAlchemy."""
        parameters = single.finish_one(success, worker_id, worker_actor(worker_id))
        statement = in_schema(single.FINISH_ONE, self._schema)
        rows = await transaction.rows(statement, parameters)
        if not rows:
            parameters = _finish_parameters([success], worker_id)
            statement = in_schema(transitions.FINISH, self._schema)
            rows = await transaction.rows(statement, parameters)
        return rows_to_answers(rows)[0]

    async def release(self, failures: Sequence[Failure], worker_id: UUID) -> list[Answer]:
        """End attempts that did not succeed; the lifecycle chooses retry, FAILED or CANCELLED."""
        latest = {failure.task_id: failure for failure in failures}
        parameters = {
            "ids": list(latest),
            "epochs": [f.epoch for f in latest.values()],
            "reasons": [str(f.reason) for f in latest.values()],
            "delays": [f.delay_seconds for f in latest.values()],
            "details": [f.detail for f in latest.values()],
            "unhandled": [f.unhandled for f in latest.values()],
            "worker": worker_id,
            "actor": worker_actor(worker_id),
        }
        return rows_to_answers(await self._database.rows(transitions.RELEASE, parameters))


def worker_actor(worker_id: UUID) -> str:
    """Return how events name a worker's incarnation as their actor."""
    return f"worker:{worker_id}"


def _finish_parameters(successes: Sequence[Success], worker_id: UUID) -> dict[str, Any]:
    latest = {success.task_id: success for success in successes}
    return {
        "ids": list(latest),
        "epochs": [s.epoch for s in latest.values()],
        "results": [s.result for s in latest.values()],
        "worker": worker_id,
        "actor": worker_actor(worker_id),
    }


def _distinct(ids: Sequence[UUID]) -> list[UUID]:
    return sorted(set(ids))
