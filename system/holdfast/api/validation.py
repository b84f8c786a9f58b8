"""Validate what the request schema cannot: known names and queues, horizon, payload."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from holdfast.api import problems
from holdfast.api.database_clock import DatabaseClock
from holdfast.api.known_names import KnownNames
from holdfast.api.problems import Fault, Problem
from holdfast.errors import OutcomeUnknown, Unavailable
from holdfast.model import payload
from holdfast.model.payload import PayloadError, PayloadTooLarge
from holdfast.model.request import TaskRequest, to_new_task
from holdfast.model.task import DEFAULT_QUEUE, NewTask
from holdfast.settings import Settings
from holdfast.store.store import Store

_NAMES_SHOWN_MAX = 50


class RequestValidator:
    """Converts a request into a NewTask with its payload as canonical JSON text."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._names = KnownNames(store.announced)
        self._queues = KnownNames(store.known_queues, {DEFAULT_QUEUE, *settings.known_queues})
        self._clock = DatabaseClock(store.clock)

    async def new_task(
        self,
        request: TaskRequest,
        task_id: UUID,
        traceparent: str,
        key_namespace: str,
        pointer: str = "",
    ) -> NewTask:
        """Return the task to store for a request.

        ``traceparent`` and ``key_namespace`` are stored with the task; ``pointer`` locates the
        request in the body.

        Raises:
            Problem: 413 or 422, with pointers into the body.
            Unavailable: the database was needed for validation and did not answer.
        """
        try:
            await self._check_name(request.name, pointer)
            await self._check_queue(request.queue, pointer)
            await self._check_horizon(request, pointer)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error  # only reads: nothing was done
        text = self._encoded(request, pointer)
        return to_new_task(request, task_id, text, traceparent, key_namespace)

    async def _check_name(self, name: str, pointer: str) -> None:
        if self._settings.accept_unknown_names or await self._names.contains(name):
            return
        shown, listed = _listed(self._names)
        detail = (
            f"No worker has announced the name {name!r}. Known names: {listed}. "
            "Start a worker with this handler, or set HOLDFAST_ACCEPT_UNKNOWN_NAMES=true."
        )
        fault = Fault(detail="not a known name", pointer=f"{pointer}/name")
        raise Problem(problems.UNKNOWN_NAME, detail, faults=[fault], known_names=shown)

    async def _check_queue(self, queue: str, pointer: str) -> None:
        if await self._queues.contains(queue):
            return
        shown, listed = _listed(self._queues)
        detail = (
            f"No worker has announced the queue {queue!r}. Known queues: {listed}. "
            "Start a worker with it in HOLDFAST_QUEUES, or name it in HOLDFAST_KNOWN_QUEUES."
        )
        fault = Fault(detail="not a known queue", pointer=f"{pointer}/queue")
        raise Problem(problems.UNKNOWN_QUEUE, detail, faults=[fault], known_queues=shown)

    async def _check_horizon(self, request: TaskRequest, pointer: str) -> None:
        if request.run_at is None:
            return
        days = self._settings.run_at_horizon_days
        if request.run_at - await self._clock.now() > timedelta(days=days):
            detail = (
                f"run_at is more than {days} days ahead, the limit of HOLDFAST_RUN_AT_HORIZON_DAYS"
            )
            fault = Fault(detail=detail, pointer=f"{pointer}/run_at")
            raise Problem(problems.INVALID, f"{detail}.", faults=[fault])

    def _encoded(self, request: TaskRequest, pointer: str) -> str:
        try:
            return payload.encode(request.payload, self._settings.body_bytes_max)
        except PayloadError as error:
            kind = problems.UNSTORABLE
            if isinstance(error, PayloadTooLarge):
                kind = problems.TOO_LARGE
            place = f"{pointer}/payload{error.pointer}"
            faults = [Fault(detail=str(error), pointer=place)]
            raise Problem(kind, f"{place}: {error}.", faults=faults) from error


def _listed(known: KnownNames) -> tuple[list[str], str]:
    """Return the first of the known names, and a text that lists them and counts the rest."""
    names = known.all()
    shown = names[:_NAMES_SHOWN_MAX]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return shown, f"{', '.join(shown) or 'none'}{more}"
