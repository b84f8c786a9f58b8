"""Validate what the request schema cannot: known names, the horizon, storable payloads."""

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
from holdfast.model.task import NewTask
from holdfast.settings import Settings
from holdfast.store.store import Store

_NAMES_SHOWN_MAX = 50


class RequestValidator:
    """Converts a request into a NewTask with its payload as canonical JSON text."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._names = KnownNames(store.announced)
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
            await self._check_horizon(request, pointer)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error  # only reads: nothing was done
        text = self._encoded(request, pointer)
        return to_new_task(request, task_id, text, traceparent, key_namespace)

    async def _check_name(self, name: str, pointer: str) -> None:
        if not self._settings.accept_unknown_names and not await self._names.contains(name):
            known = self._names.all()
            shown = known[:_NAMES_SHOWN_MAX]
            listed = ", ".join(shown) or "none"
            detail = (
                f"No worker has announced the name {name!r}. Known names: {listed}"
                f"{f' and {len(known) - len(shown)} more' if len(known) > len(shown) else ''}. "
                "Start a worker with this handler, or set HOLDFAST_ACCEPT_UNKNOWN_NAMES=true."
            )
            fault = Fault(detail="not a known name", pointer=f"{pointer}/name")
            raise Problem(problems.UNKNOWN_NAME, detail, faults=[fault], known_names=shown)

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
