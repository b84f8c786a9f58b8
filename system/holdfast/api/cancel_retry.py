"""``POST /tasks/{id}/cancel`` and ``/retry``."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response

from holdfast.api import problems, responses
from holdfast.api.dependencies import NO_QUERY, NoKey, RequestDep, Services, ServicesDep
from holdfast.api.models import Task
from holdfast.api.openapi import described
from holdfast.api.problems import Problem
from holdfast.api.read import not_found, read_story
from holdfast.errors import OutcomeUnknown, Unavailable
from holdfast.model.lifecycle import State


def routes(router: APIRouter) -> None:
    """Add the two routes."""
    refusals = described(
        *(problems.NOT_FOUND, problems.CONFLICT, problems.INVALID),
        *(problems.UNAVAILABLE, problems.OUTCOME_UNKNOWN),
    )
    requested: dict[int | str, dict[str, Any]] = {
        202: {"model": Task, "description": "Running; its handler was asked to stop"}
    }
    action: dict[str, Any] = {"response_model": Task, "dependencies": [NO_QUERY]}
    cancelled = {**requested, **refusals}
    router.post("/tasks/{task_id}/cancel", responses=cancelled, **action)(cancel_task)
    router.post("/tasks/{task_id}/retry", responses=refusals, **action)(retry_task)


async def cancel_task(task_id: UUID, services: ServicesDep, traced: RequestDep) -> Response:
    """Cancel a task: immediately (200), or by a request to its running handler (202).

    If the handler succeeds nevertheless, the task is SUCCEEDED: the cancel came too late.
    Repeating a cancel is safe.
    """
    began = time.time_ns()
    try:
        answer = (await services.store.cancel([task_id], services.actor))[0]
    except OutcomeUnknown as error:
        detail = f"It is unknown whether the task was cancelled: {error}. Cancel it again."
        raise Problem(problems.OUTCOME_UNKNOWN, detail, task_id=str(task_id)) from error
    if answer.state is None:
        raise not_found(task_id)
    services.instrumentation.cancelled(answer, traced, began)
    if not answer.done:
        detail = f"Task {task_id} is {answer.state} and can no longer be cancelled."
        raise Problem(problems.CONFLICT, detail, state=answer.state)
    return await _respond(services, task_id, 202 if answer.state is State.RUNNING else 200)


async def retry_task(
    task_id: UUID, services: ServicesDep, traced: RequestDep, _: NoKey
) -> Response:
    """Schedule a FAILED task for at least one more attempt, due now."""
    began = time.time_ns()
    try:
        answer = (await services.store.retry([task_id], services.actor))[0]
    except OutcomeUnknown as error:
        detail = f"It is unknown whether the retry was stored: {error}. Check its events first."
        raise Problem(problems.OUTCOME_UNKNOWN, detail, task_id=str(task_id)) from error
    if answer.state is None:
        raise not_found(task_id)
    services.instrumentation.retried(answer, traced, began)
    if not answer.done:
        detail = f"Task {task_id} is {answer.state}: only FAILED tasks can be retried."
        raise Problem(problems.CONFLICT, detail, state=answer.state)
    services.wakeup.request()
    return await _respond(services, task_id, 200)


async def _respond(services: Services, task_id: UUID, status: int) -> Response:
    """Return the task after the action, which stands even if this read fails."""
    try:
        story = await read_story(services, task_id)
    except (Unavailable, OutcomeUnknown) as error:
        detail = f"The action succeeded, but the task could not be read afterwards: {error}."
        raise Problem(problems.UNREADABLE, detail, task_id=str(task_id)) from error
    return responses.json_response(responses.story_json(story), status)
