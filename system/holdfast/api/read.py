"""``GET`` one task, its events, and listings of tasks."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from holdfast.api import cursor, problems, responses
from holdfast.api.dependencies import Services, ServicesDep
from holdfast.api.models import Task, TaskEvents, TaskPage
from holdfast.api.openapi import described
from holdfast.api.problems import Fault, Problem
from holdfast.model.lifecycle import State
from holdfast.model.request import NAME_PATTERN, QUEUE_PATTERN, Instant
from holdfast.model.task import TaskFilter, TaskStory


class ListQuery(BaseModel):
    """Filters of a listing. Unknown ones are refused: a misspelt filter would list everything."""

    model_config = ConfigDict(extra="forbid")

    state: list[State] = Field(
        default_factory=list, description="Repeat it to list several states."
    )
    name: str | None = Field(None, pattern=NAME_PATTERN)
    queue: str | None = Field(None, pattern=QUEUE_PATTERN)
    created_after: Instant | None = Field(None, description="Created at or after this time.")
    created_before: Instant | None = Field(None, description="Created before this time.")
    run_after: Instant | None = Field(None, description="run_at at or after this time.")
    run_before: Instant | None = Field(None, description="run_at before this time.")
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(
        None, max_length=200, description="next_cursor of the previous page."
    )

    def filter(self) -> TaskFilter:
        return TaskFilter(
            states=tuple(self.state),
            name=self.name,
            queue=self.queue,
            created_after=self.created_after,
            created_before=self.created_before,
            run_after=self.run_after,
            run_before=self.run_before,
        )


def routes(router: APIRouter) -> None:
    """Add the routes."""
    listing: dict[str, Any] = {
        "response_model": TaskPage,
        "responses": described(problems.INVALID_CURSOR, problems.INVALID, problems.UNAVAILABLE),
    }
    single = described(problems.NOT_FOUND, problems.INVALID, problems.UNAVAILABLE)
    router.get("/tasks/", **listing)(list_tasks)
    router.get("/tasks", include_in_schema=False, **listing)(list_tasks)
    router.get("/tasks/{task_id}", response_model=Task, responses=single)(get_task)
    router.get("/tasks/{task_id}/events", response_model=TaskEvents, responses=single)(get_events)


async def list_tasks(
    request: Request, query: Annotated[ListQuery, Query()], services: ServicesDep
) -> Response:
    """List tasks, newest first, without their results and attempts."""
    wanted = query.filter()
    before = None
    if query.cursor is not None:
        try:
            before = cursor.decode(wanted, query.cursor)
        except cursor.InvalidCursor as error:
            fault = Fault(detail=str(error), parameter="cursor")
            raise Problem(problems.INVALID_CURSOR, f"{error}.", faults=[fault]) from error
    # One more than requested shows whether there is a next page.
    rows = await services.store.list_tasks(wanted, query.limit + 1, before)
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    following = cursor.encode(wanted, rows[-1].id) if more else None
    page = {"tasks": [responses.task_json(row) for row in rows], "next_cursor": following}
    headers = {}
    if following is not None:
        url = request.url.include_query_params(cursor=following)
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return responses.json_response(page, headers=headers)


async def get_task(task_id: UUID, services: ServicesDep) -> Response:
    """Return a task with its result and attempts."""
    story = await read_story(services, task_id)
    return responses.json_response(responses.story_json(story))


async def get_events(task_id: UUID, services: ServicesDep) -> Response:
    """Return every transition of a task, oldest first."""
    story = await read_story(services, task_id)
    return responses.json_response(
        {"events": [responses.event_json(event) for event in story.events]}
    )


async def read_story(services: Services, task_id: UUID) -> TaskStory:
    """Return the task with its events and its effect.

    Raises:
        Problem: 404 if it does not exist.
    """
    story = await services.store.get(task_id)
    if story is None:
        raise not_found(task_id)
    return story


def not_found(task_id: UUID) -> Problem:
    """Return a 404; the task was never stored, or is past its retention."""
    return Problem(
        problems.NOT_FOUND,
        f"Task {task_id} does not exist: it was never stored, or its retention has ended.",
    )
