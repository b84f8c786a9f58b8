"""``POST /tasks/`` and ``POST /tasks/batch``. 201 is sent only after the task is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request, Response

from holdfast.api import problems, responses
from holdfast.api.batch_text import NotABatch, split
from holdfast.api.coalescer import Outcome
from holdfast.api.dependencies import (
    KEY_HEADER,
    NO_QUERY,
    NamespaceDep,
    NoKey,
    RequestDep,
    Services,
    ServicesDep,
)
from holdfast.api.json_text import MalformedJson
from holdfast.api.models import BATCH_TASKS_MAX, BatchRequest, BatchResults, Task
from holdfast.api.openapi import described, described_body
from holdfast.api.problems import Fault, Problem
from holdfast.errors import HoldfastError, OutcomeUnknown, Unstorable
from holdfast.model.ids import new_id
from holdfast.model.payload import PayloadError
from holdfast.model.request import KEY_PATTERN, TaskRequest
from holdfast.model.task import NewTask, Submitted

Key = Annotated[
    str | None,
    Header(
        alias=KEY_HEADER,
        pattern=KEY_PATTERN,
        description="1 to 255 visible ASCII characters. A repeated request returns the task of "
        "the first one (200); a different request under the same key is refused (422). Clients "
        "whose API keys have different names may use equal Idempotency-Keys.",
    ),
]


def routes(router: APIRouter) -> None:
    """Add the two routes, with and without a trailing slash: a redirect could lose the body."""
    single: dict[str, Any] = {
        "dependencies": [NO_QUERY],
        "response_model": Task,
        "status_code": 201,
        "openapi_extra": described_body(TaskRequest),
        "responses": {
            200: {"model": Task, "description": "Stored before, under this Idempotency-Key"},
            **described(
                *(problems.MALFORMED, problems.TOO_LARGE, problems.MEDIA, problems.INVALID),
                *(problems.UNSTORABLE, problems.UNKNOWN_NAME, problems.UNKNOWN_QUEUE),
                problems.KEY_REUSED,
                *(problems.UNAVAILABLE, problems.OVERLOADED, problems.OUTCOME_UNKNOWN),
            ),
        },
    }
    batch: dict[str, Any] = {
        "dependencies": [NO_QUERY],
        "response_model": BatchResults,
        "openapi_extra": described_body(BatchRequest),
        "responses": described(
            *(problems.MALFORMED, problems.TOO_LARGE, problems.MEDIA, problems.INVALID),
            *(problems.UNAVAILABLE, problems.OVERLOADED),
        ),
    }
    router.post("/tasks/", **single)(submit_task)
    router.post("/tasks", include_in_schema=False, **single)(submit_task)
    router.post("/tasks/batch", **batch)(submit_batch)
    others = ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"]
    router.api_route("/tasks/batch", methods=others, include_in_schema=False)(batch_not_allowed)
    router.post("/tasks/batch/", include_in_schema=False, **batch)(submit_batch)


async def submit_task(
    request: Request,
    services: ServicesDep,
    traced: RequestDep,
    namespace: NamespaceDep,
    key: Key = None,
) -> Response:
    """Store a task. Once the response is 201, it is never lost."""
    task = await _received_task(request, services, traced, namespace, key)
    began = time.time_ns()
    outcome = (await services.coalescer.submit([task]))[0]
    services.instrumentation.submitted([task], [outcome], traced, began)
    _wake_if_due(services, [outcome])
    submitted = _stored(task, outcome)
    replayed = submitted.outcome == "existing"
    headers = {"Location": f"/tasks/{submitted.task.id}"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return responses.json_response(
        responses.task_json(submitted.task), 200 if replayed else 201, headers
    )


async def batch_not_allowed() -> Response:
    """Answer 405: otherwise "batch" would be read as the id of a task."""
    allowed = "POST"
    detail = f"Only {allowed} is allowed at /tasks/batch."
    raise Problem(problems.NOT_ALLOWED, detail, headers={"Allow": allowed})


async def submit_batch(
    request: Request,
    services: ServicesDep,
    traced: RequestDep,
    namespace: NamespaceDep,
    _: NoKey,
) -> Response:
    """Store up to 1,000 tasks. Each one has its own result, in the same order."""
    accepted, results = await _received_batch(request, services, traced, namespace)
    if accepted:
        tasks = list(accepted.values())
        began = time.time_ns()
        outcomes = await services.coalescer.submit(tasks)
        services.instrumentation.submitted(tasks, outcomes, traced, began)
        _wake_if_due(services, outcomes)
        for (index, task), outcome in zip(accepted.items(), outcomes, strict=True):
            results[index] = _result(index, task, outcome)
    return responses.json_response({"results": [results[index] for index in sorted(results)]})


async def _received_task(
    request: Request, services: Services, traced: RequestDep, namespace: str, key: str | None
) -> NewTask:
    async with services.bodies.receive_task(request) as text:
        try:
            asked = await services.validator.request(text)
        except MalformedJson as error:
            raise Problem(problems.MALFORMED, error.located(text)) from error
        del text  # not needed beside what it became
        asked = _with_key(asked, key)
        traceparent = traced.new_task(one_of_many=False)
        return await services.validator.new_task(asked, new_id(), traceparent, namespace)


async def _received_batch(
    request: Request, services: Services, traced: RequestDep, namespace: str
) -> tuple[dict[int, NewTask], dict[int, orjson.Fragment]]:
    """Return the tasks to store and the results of the others, by their index."""
    accepted: dict[int, NewTask] = {}
    refused: dict[int, orjson.Fragment] = {}
    index = 0
    async with services.bodies.receive_batch(request) as text:
        try:
            for found in split(text):
                if found is None:
                    await asyncio.sleep(0)
                    continue
                start, item = found
                if index == BATCH_TASKS_MAX:
                    raise NotABatch
                try:
                    pointer = f"/tasks/{index}"
                    asked = await services.validator.request(item, pointer, start)
                    traceparent = traced.new_task(one_of_many=True)
                    accepted[index] = await services.validator.new_task(
                        asked, new_id(), traceparent, namespace, pointer
                    )
                except Problem as problem:
                    refused[index] = _refused(index, problem)
                except HoldfastError as error:
                    refused[index] = _refused(index, problems.from_error(error, reading=True))
                index += 1
            if not index:
                raise NotABatch
        except MalformedJson as error:
            raise Problem(problems.MALFORMED, error.located(text)) from error
        except PayloadError as error:
            raise Problem(problems.UNSTORABLE, f"/tasks/{index}: {error}.") from error
        except NotABatch as error:
            raise (await services.validator.batch_problem(text)) from error
    return accepted, refused


def _with_key(request: TaskRequest, key: str | None) -> TaskRequest:
    if key is None or key == request.idempotency_key:
        return request
    if request.idempotency_key is not None:
        detail = f"differs from the header {KEY_HEADER}"
        fault = Fault(detail=detail, pointer="/idempotency_key")
        raise Problem(problems.INVALID, f"idempotency_key {detail}.", faults=[fault])
    return request.model_copy(update={"idempotency_key": key})


def _result(index: int, task: NewTask, outcome: Outcome) -> orjson.Fragment:
    """Return a ``models.BatchResult``."""
    try:
        submitted = _stored(task, outcome)
    except Problem as problem:
        return _refused(index, problem)
    status = 200 if submitted.outcome == "existing" else 201
    task_answer = responses.task_json(submitted.task)
    result = {"index": index, "status": status, "task": task_answer, "problem": None}
    return responses.fragment(result)


def _refused(index: int, problem: Problem) -> orjson.Fragment:
    status = problem.kind.status
    result = {"index": index, "status": status, "task": None, "problem": problem.body()}
    return responses.fragment(result)


def _stored(task: NewTask, outcome: Outcome) -> Submitted:
    """Return the outcome if the task is stored; raise a Problem otherwise."""
    match outcome:
        case Submitted(outcome="mismatch"):
            first = outcome.task.id
            detail = (
                f"The idempotency key was used for another request, which created task "
                f"{first}. Use a new key, or repeat that request unchanged."
            )
            raise Problem(problems.KEY_REUSED, detail, task_id=str(first))
        case Submitted():
            return outcome
        case Unstorable():
            detail = f"Postgres cannot store this task: {outcome}."
            raise Problem(problems.UNSTORABLE, detail)
        case OutcomeUnknown():
            raise _unknown(task, outcome)
        case _:
            pass
    raise problems.from_error(outcome, reading=False)


def _unknown(task: NewTask, error: OutcomeUnknown) -> Problem:
    if task.idempotency_key:
        advice = "Repeat the request with the same Idempotency-Key: it will be stored once."
    else:
        advice = (
            "Without an Idempotency-Key, repeating the request may create a second task. "
            f"GET /tasks/{task.id} shows whether it was stored; a 404 is inconclusive while the "
            "database may still be processing the request."
        )
    detail = f"It is unknown whether the task was stored: {error}. {advice}"
    return Problem(problems.OUTCOME_UNKNOWN, detail, task_id=str(task.id))


def _wake_if_due(services: Services, outcomes: Sequence[Outcome]) -> None:
    """Wake a scheduler if a new task is due now."""
    for outcome in outcomes:
        if isinstance(outcome, Submitted) and outcome.outcome == "created":
            task = outcome.task
            if task.due_at <= task.created_at:
                services.wakeup.request()
                return
