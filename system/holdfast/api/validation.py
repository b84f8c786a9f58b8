"""Validate what the request schema cannot: known names and queues, horizon, payload."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel, ValidationError

from holdfast.api import problems
from holdfast.api.database_clock import DatabaseClock
from holdfast.api.json_text import MalformedJson, parse
from holdfast.api.known_names import KnownNames
from holdfast.api.models import BATCH_TASKS_MAX, BatchRequest
from holdfast.api.problems import Fault, Problem
from holdfast.errors import OutcomeUnknown, Unavailable
from holdfast.model import payload
from holdfast.model.payload import PayloadError, PayloadTooLarge
from holdfast.model.request import TaskRequest, to_new_task
from holdfast.model.task import DEFAULT_QUEUE, NewTask
from holdfast.runtime.turns import Turns
from holdfast.settings import Settings
from holdfast.store.store import Store

_NAMES_SHOWN_MAX = 50
_MEMBERS_MAX = 50
_ITEM_ERRORS_MAX = 10  # of each task of a batch

Model = TypeVar("Model", bound=BaseModel)


class RequestValidator:
    """Converts the text of a request into a NewTask with its payload as canonical JSON text.

    All requests of the process take turns at parsing and encoding.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._names = KnownNames(store.announced)
        self._queues = KnownNames(store.known_queues, {DEFAULT_QUEUE, *settings.known_queues})
        self._clock = DatabaseClock(store.clock)
        self._turns = Turns()

    async def request(self, text: bytes, pointer: str = "", offset: int = 0) -> TaskRequest:
        """Parse a request; ``pointer`` and ``offset`` (in bytes) locate it in the body.

        Raises:
            Problem: 413 or 422, with pointers into the body.
            MalformedJson: it is not JSON in UTF-8; with the offset in the body.
        """
        if len(text) > self._settings.body_bytes_max:
            detail = f"the task has {len(text)} bytes, more than {self._settings.body_bytes_max}"
            fault = Fault(detail=detail, pointer=pointer)
            raise Problem(problems.TOO_LARGE, f"{pointer}: {detail}.", faults=[fault])
        try:
            return await self._turns.run(lambda: _task_request(text, pointer), len(text))
        except MalformedJson as error:
            error.at += offset
            raise

    async def batch_problem(self, text: bytes) -> Problem:
        """Return why the body is not a batch."""
        if len(text) <= self._settings.body_bytes_max:
            try:
                await self._turns.run(
                    lambda: _validated(BatchRequest, _parsed(text, ""), ""), len(text)
                )
            except MalformedJson as error:
                return Problem(problems.MALFORMED, error.located(text))
            except Problem as problem:
                return problem
        detail = f'must be {{"tasks": [...]}} with 1 to {BATCH_TASKS_MAX} tasks, and nothing else'
        return Problem(
            problems.INVALID, f"The body {detail}.", faults=[Fault(detail=detail, pointer="")]
        )

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
        text: bytes = await self._turns.run(lambda: self._encoded(request, pointer), len)
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

    def _encoded(self, request: TaskRequest, pointer: str) -> bytes:
        try:
            return payload.encode(request.payload, self._settings.body_bytes_max)
        except PayloadError as error:
            raise _unstorable(error, f"{pointer}/payload{error.pointer}") from error


def _task_request(text: bytes, pointer: str) -> TaskRequest:
    value = _parsed(text, pointer)
    payload = value.get("payload") if isinstance(value, dict) else None
    if not isinstance(payload, dict):
        return _validated(TaskRequest, value, pointer)
    # Any object parsed from JSON is valid here, and pydantic would copy it.
    value["payload"] = {}
    return _validated(TaskRequest, value, pointer).model_copy(update={"payload": payload})


def _parsed(text: bytes, pointer: str) -> Any:
    try:
        return parse(text)
    except PayloadError as error:
        raise _unstorable(error, pointer) from error


def _validated(model: type[Model], value: Any, pointer: str) -> Model:
    if isinstance(value, dict) and len(value) > _MEMBERS_MAX:
        detail = f"has {len(value)} members, at most {_MEMBERS_MAX} are allowed"
        fault = Fault(detail=detail, pointer=pointer)
        raise Problem(problems.INVALID, f"{pointer or 'The body'} {detail}.", faults=[fault])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        most = _ITEM_ERRORS_MAX if pointer else _MEMBERS_MAX
        raise problems.from_validation(cast("list[Any]", found), pointer, most) from error


def _listed(known: KnownNames) -> tuple[list[str], str]:
    """Return the first of the known names, and a text that lists them and counts the rest."""
    names = known.all()
    shown = names[:_NAMES_SHOWN_MAX]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return shown, f"{', '.join(shown) or 'none'}{more}"


def _unstorable(error: PayloadError, pointer: str) -> Problem:
    kind = problems.TOO_LARGE if isinstance(error, PayloadTooLarge) else problems.UNSTORABLE
    fault = Fault(detail=str(error), pointer=pointer)
    return Problem(kind, f"{pointer or 'The body'}: {error}.", faults=[fault])
