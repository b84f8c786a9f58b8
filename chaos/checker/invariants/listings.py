"""Check the pages of listings against the logs of all tasks: S23."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.prefixes import Answers, TaskLog
from chaos.checker.invariants.violation import Violation, halves
from chaos.history.history import History, Operation
from chaos.history.records import TaskRow, parse_instant

_LIMIT = 100  # of a page whose query has none
_HIGHEST = "g"  # above every id, which is in lower-case hex


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One page of a walk; ``below``: the last id of the page before it."""

    operation: Operation
    below: str

    @property
    def query(self) -> dict[str, Any]:
        found: dict[str, Any] = self.operation.value["query"]
        return found

    @property
    def ids(self) -> list[str]:
        return [str(task.get("id")) for task in self.operation.value["tasks"]]


def pages(history: History) -> Iterator[ListedPage]:
    """Yield every answered page; a page of an unknown cursor belongs to no walk."""
    lasts: dict[tuple[str, str], str] = {}  # process, cursor -> last id of the page that had it
    for operation in history.of("list"):
        if operation.type != "ok":
            continue
        process = operation.invoke.process
        cursor = operation.value["query"].get("cursor")
        below = _HIGHEST if cursor is None else lasts.get((process, cursor))
        if below is None:
            continue
        page = ListedPage(operation, below)
        yield page
        following = operation.value.get("next_cursor")
        if following is not None and page.ids:
            lasts[process, following] = page.ids[-1]


@invariant("S23", "the pages of each walk with each other and with the logs")
def listings_complete(history: History) -> list[Violation]:
    """A walk through a listing shows every matching task once, newest first, and no other.

    Newest first is by descending id, within a page and across the pages of a walk, so no task is
    in it twice. Each item matches the filters. A page has ``limit`` items if a cursor follows, at
    most as many otherwise, and none is missing between the end of the page before it and its own
    end (without a cursor: the oldest task): neither a task that certainly existed at the invoke
    and matched in every state that the page may have seen (S22), nor one of a page before it.
    """
    found: list[Violation] = []
    answers = history.view(Answers)
    stored = sorted(history.tasks)
    for page in pages(history):
        shape = _shape(page) or _foreign(page)
        if shape is not None:
            found.append(Violation("S23", shape[0], shape[1], halves(page.operation)))
        for row in _missing(history, answers, stored, page):
            message = f"a page of {_filters(page)} does not list it"
            found.append(Violation("S23", row.task_id, message, (*halves(page.operation), row)))
    return found


def _shape(page: ListedPage) -> tuple[str | None, str] | None:
    """Return what is wrong with order and size of a page: (task, message); None if nothing is."""
    before = page.below
    for task_id in page.ids:
        if task_id >= before:
            return task_id, f"a page lists it after {before}: not newest first, or twice"
        before = task_id
    limit = int(page.query.get("limit", _LIMIT))
    following = page.operation.value.get("next_cursor")
    if len(page.ids) > limit or (following is not None and len(page.ids) < limit):
        return None, f"a page of at most {limit} has {len(page.ids)} tasks; cursor {following}"
    return None


def _foreign(page: ListedPage) -> tuple[str | None, str] | None:
    wanted = _states(page)
    for body in page.operation.value["tasks"]:
        if not _matches(page, body) or (wanted and body.get("state") not in wanted):
            return str(body.get("id")), f"a page of {_filters(page)} lists it"
    return None


def _missing(
    history: History, answers: Answers, stored: list[str], page: ListedPage
) -> Iterator[TaskRow]:
    more = page.operation.value.get("next_cursor") is not None
    lowest = page.ids[-1] if more and page.ids else ""
    shown = set(page.ids)
    for task_id in stored[bisect_left(stored, lowest) : bisect_left(stored, page.below)]:
        row = history.tasks[task_id]
        if task_id in shown or not _matches(page, _fixed(row)):
            continue
        log = answers.log(task_id)
        if log is not None and _always_listed(answers, log, page):
            yield row


def _always_listed(answers: Answers, log: TaskLog, page: ListedPage) -> bool:
    window = answers.window(log, page.operation)
    wanted = _states(page)
    # An empty window is a contradiction that S22 reports where it arises.
    return bool(window) and all(k and (not wanted or log.names[k] in wanted) for k in window)


def _fixed(row: TaskRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "queue": row.queue,
        "created_at": row.created_at,
        "run_at": row.run_at,
    }


def _states(page: ListedPage) -> set[str]:
    asked = page.query.get("state") or []
    return {asked} if isinstance(asked, str) else {*asked}


def _matches(page: ListedPage, body: dict[str, Any]) -> bool:
    """Return whether a task matches the filters of a page other than its state."""
    query = page.query
    if any(query.get(name) not in {None, body.get(name)} for name in ("name", "queue")):
        return False
    for field, after, before in (
        ("created_at", "created_after", "created_before"),
        ("run_at", "run_after", "run_before"),
    ):
        at = parse_instant(body[field])
        if after in query and at < parse_instant(query[after]):
            return False
        if before in query and at >= parse_instant(query[before]):
            return False
    return True


def _filters(page: ListedPage) -> str:
    named = {key: value for key, value in page.query.items() if key not in {"limit", "cursor"}}
    return str(named) if named else "all tasks"
