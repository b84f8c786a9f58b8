"""``GET`` one task, its events, and listings of tasks."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from holdfast.api import cursor, problems, responses
from holdfast.api.dependencies import NO_QUERY, Services, ServicesDep
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
    limit: int = Field(
        100,
        ge=1,
        le=1000,
        description="Most tasks of a page. It has fewer once their payloads have 1 MiB.",
    )
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


class EventsQuery(BaseModel):
    """The page of a task's events."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(
        100,
        ge=1,
        le=1000,
        description="Most events of a page. It has fewer once their details have 1 MiB.",
    )
    cursor: str | None = Field(
        None, max_length=200, description="next_cursor of the previous page."
    )


def routes(router: APIRouter) -> None:
    """Add the routes."""
    listing: dict[str, Any] = {
        "response_model": TaskPage,
        "responses": described(problems.INVALID_CURSOR, problems.INVALID, problems.UNAVAILABLE),
    }
    events: dict[str, Any] = {
        "response_model": TaskEvents,
        "responses": described(
            *(problems.INVALID_CURSOR, problems.NOT_FOUND, problems.INVALID, problems.UNAVAILABLE)
        ),
    }
    single: dict[str, Any] = {
        "response_model": Task,
        "dependencies": [NO_QUERY],
        "responses": described(problems.NOT_FOUND, problems.INVALID, problems.UNAVAILABLE),
    }
    router.get("/tasks/", **listing)(list_tasks)
    router.get("/tasks", include_in_schema=False, **listing)(list_tasks)
    router.get("/tasks/{task_id}", **single)(get_task)
    router.get("/tasks/{task_id}/events", **events)(get_events)


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
            raise _invalid_cursor(error) from error
    rows, more = await services.store.list_tasks(wanted, query.limit, before)
    following = cursor.encode(wanted, rows[-1].id) if more else None
    page = {"tasks": [responses.task_json(row) for row in rows], "next_cursor": following}
    return responses.json_response(page, headers=_link(request, following))


async def get_events(
    task_id: UUID,
    request: Request,
    query: Annotated[EventsQuery, Query()],
    services: ServicesDep,
) -> Response:
    """Return the transitions of a task, oldest first, in pages."""
    after = 0
    if query.cursor is not None:
        try:
            after = cursor.decode_events(task_id, query.cursor)
        except cursor.InvalidCursor as error:
            raise _invalid_cursor(error) from error
    found = await services.store.events(task_id, query.limit, after)
    if found is None:
        raise not_found(task_id)
    events, more = found
    following = cursor.encode_events(task_id, events[-1].seq) if more else None
    page = {"events": [responses.event_json(event) for event in events], "next_cursor": following}
    return responses.json_response(page, headers=_link(request, following))


async def get_task(task_id: UUID, services: ServicesDep) -> Response:
    """Return a task with its result and its latest attempts."""
    story = await read_story(services, task_id)
    return responses.json_response(responses.story_json(story))


async def read_story(services: Services, task_id: UUID) -> TaskStory:
    """Return the task with its latest events and its effect.

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


def _invalid_cursor(error: cursor.InvalidCursor) -> Problem:
    fault = Fault(detail=str(error), parameter="cursor")
    return Problem(problems.INVALID_CURSOR, f"{error}.", faults=[fault])


def _link(request: Request, following: str | None) -> dict[str, str]:
    """Return the header that links to the next page, if there is one."""
    if following is None:
        return {}
    url = request.url.include_query_params(cursor=following)
    return {"Link": f'<{url.path}?{url.query}>; rel="next"'}
