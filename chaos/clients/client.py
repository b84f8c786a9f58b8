"""Clients in Jepsen's sense: each turns operations into requests and records the outcomes.

No I/O happens here, so all arenas share this code. A client runs one operation at a time, in the
order of its share of the generated operations. Each is recorded as invoke and completion
(``chaos.history.records.Op``). An unknown outcome is info, never fail: a timeout, a broken
connection, or a response that says so. A response that says that nothing was done is fail. After
either, the same submit is sent again, as an operation of its own. Nothing else is retried.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal
from urllib.parse import urlencode

from chaos.history.records import Op
from chaos.scenario.workload import PlannedOperation, share

# Together longer than any outage of a scenario, so that every submit gets an answer in the end.
RESENDS_MAX = 40
RESEND_AFTER_SECONDS = 0.7
# One page has all events of a task: none of a run has more.
EVENTS_MAX = 1000
Outcome = Literal["ok", "fail", "info"]
# The last parts of the problem types that say what became of a request which got a 5xx.
NOTHING_DONE = frozenset({"unavailable", "overloaded"})
_DONE = "done-but-unread"
Name = Literal["submit", "get", "events", "cancel", "retry", "list"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``name``: its operation; ``body``: JSON; ``key``: its Idempotency-Key.

    ``secret``: of the API key that it is sent with.
    """

    name: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    key: str | None = None
    secret: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that only this request has."""
        found = {} if self.key is None else {"Idempotency-Key": self.key}
        return found if self.secret is None else found | bearer(self.secret)


def bearer(secret: str) -> dict[str, str]:
    """Return the header that a secret of an API key is sent in."""
    return {"Authorization": f"Bearer {secret}"}


@dataclass(frozen=True, slots=True)
class Response:
    """The HTTP ``status`` (0: no response), the ``body`` (None: no JSON), and the error, if any."""

    status: int
    body: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    """The answer to one submit; ``index``: the place in its batch that the answer names."""

    status: int
    body: Any
    index: Any = None


class OperationLog:
    """The log that all clients of a run share, with its clock and its operation ids.

    ``zero``: returns the Unix time of arena second 0. ``clock``: returns the Unix time now.
    ``prefix``: of the operation ids, which differ from those of other logs of the run.
    """

    def __init__(
        self,
        record: Callable[[Op], None],
        zero: Callable[[], float],
        clock: Callable[[], float],
        prefix: str = "op",
    ) -> None:
        self._prefix = prefix
        self.record = record
        self._zero = zero
        self._clock = clock
        self._op_ids = itertools.count(1)

    def now(self) -> float:
        """Seconds since the start of the run."""
        zero = self._zero()  # called first because it may wait for the start
        return self._clock() - zero

    def next_op_id(self) -> str:
        """Return the next id; ids follow the order of the invokes."""
        return f"{self._prefix}-{next(self._op_ids)}"

    def instant(self, seconds: float, offset_minutes: int | None = None) -> str:
        """Format an arena second as ISO 8601, with an offset or (None) in UTC with Z."""
        moment = datetime.fromtimestamp(self._zero() + seconds, UTC)
        if offset_minutes is None:
            return moment.isoformat().replace("+00:00", "Z")
        return moment.astimezone(timezone(timedelta(minutes=offset_minutes))).isoformat()


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request without response: its operations and, for submits, what generated each."""

    op: Name
    op_ids: tuple[str, ...]
    items: tuple[PlannedOperation, ...] = ()
    is_batch: bool = False
    page: PlannedOperation | None = None


class Client:
    """One client, which is one process of the history. Its caller does the I/O.

    While ``due`` is not None: wait for that second, call ``next_request``, send it, pass the
    response to ``handle_response``. ``process``: its name (default: by its number). ``known``:
    tasks that were submitted already, key to id.
    """

    def __init__(
        self,
        number: int,
        operations: list[PlannedOperation],
        log: OperationLog,
        *,
        process: str | None = None,
        known: Mapping[str, str] | None = None,
    ) -> None:
        self._process = process or f"client-{number + 1}"
        self._log = log
        self._ids = dict(known or {})
        self._resends: dict[str, int] = {}
        # A heap of (second, order, operation); resends are added on the way.
        mine = share(operations, number)
        self._schedule = [(planned.at, n, planned) for n, planned in enumerate(mine)]
        self._order = itertools.count(len(mine))
        self._pending: _Pending | None = None
        self._secret: tuple[int, str] | None = None  # of the current request

    @property
    def due(self) -> float | None:
        """The arena second of the next operation; None when all are done."""
        return self._schedule[0][0] if self._schedule else None

    def next_request(self) -> Request | None:
        """Take the next operation; return its request, or None if its task id is unknown."""
        _, _, planned = heapq.heappop(self._schedule)
        self._secret = planned.secret(self._log.now())
        request = self._request(planned)
        if request is None or self._secret is None:
            return request
        return replace(request, secret=self._secret[1])

    def _request(self, planned: PlannedOperation) -> Request | None:
        if planned.kind in {"submit", "repeat"}:
            return self._submit(planned)
        if planned.kind == "batch":
            return self._batch(planned)
        if planned.kind == "list":
            return self._list(planned)
        if planned.key not in self._ids:
            return None  # its submit is not known to have succeeded
        return self._request_about(planned, self._ids[planned.key])

    def handle_response(self, response: Response) -> None:
        """Record the outcomes that the response to the last request implies."""
        if self._pending is None:
            raise RuntimeError("no request is pending: handle_response() follows next_request()")
        pending, self._pending = self._pending, None
        error = {} if response.error is None else {"error": response.error}
        results = [_Result(response.status, response.body)] * len(pending.op_ids)
        if pending.is_batch:
            found = _results(response)[: len(results)]
            results = [*found, *results[len(found) :]]
        for n, (op_id, result) in enumerate(zip(pending.op_ids, results, strict=True)):
            outcome, value = interpret(pending.op, result.status, result.body)
            if result.index is not None:
                value |= {"index": result.index}
                value |= _within(f"/tasks/{n}", value)
            self._record(pending.op, op_id, outcome, value | error)
            if pending.items:
                self._settle(pending.items[n], outcome, value)
            if pending.page is not None:
                self._follow(pending.page, value.get("next_cursor"))

    def _request_about(self, planned: PlannedOperation, task_id: str) -> Request:
        if planned.kind == "mismatch":
            return self._submit(planned)
        value, path = {"task_id": task_id}, f"/tasks/{task_id}"
        match planned.kind:
            case "cancel" | "retry" as action:
                return self._invoke(action, Request(action, "POST", f"{path}/{action}"), value)
            case "events":
                return self._invoke(
                    "events", Request("events", "GET", f"{path}/events?limit={EVENTS_MAX}"), value
                )
            case _:
                return self._invoke("get", Request("get", "GET", path), value)

    def _list(self, planned: PlannedOperation) -> Request:
        query = planned.request
        request = Request("list", "GET", f"/tasks/?{urlencode(query, doseq=True)}")
        return self._invoke("list", request, {"query": query}, page=planned)

    def _follow(self, planned: PlannedOperation, cursor: str | None) -> None:
        """Request the next page immediately, unless this was the last one that was planned."""
        if cursor is not None and planned.pages > 1:
            query = planned.request | {"cursor": cursor}
            following = replace(planned, request=query, pages=planned.pages - 1)
            heapq.heappush(self._schedule, (self._log.now(), next(self._order), following))

    def _submit(self, planned: PlannedOperation) -> Request:
        body = self._body(planned)
        request = Request("submit", "POST", "/tasks/", body, planned.key)
        return self._invoke("submit", request, self._submitted(planned, body), (planned,))

    def _batch(self, planned: PlannedOperation) -> Request:
        """Send one request in which each submit is an operation with an outcome of its own."""
        bodies = [self._body(item) | {"idempotency_key": item.key} for item in planned.items]
        op_ids = tuple(self._log.next_op_id() for _ in bodies)
        for n, (op_id, item) in enumerate(zip(op_ids, planned.items, strict=True)):
            value = self._submitted(item, bodies[n]) | {"index": n}
            self._record("submit", op_id, "invoke", value)
        self._pending = _Pending("submit", op_ids, planned.items, is_batch=True)
        return Request("batch", "POST", "/tasks/batch", {"tasks": bodies})

    def _invoke(
        self,
        op: Name,
        request: Request,
        value: dict[str, Any],
        items: tuple[PlannedOperation, ...] = (),
        page: PlannedOperation | None = None,
    ) -> Request:
        op_id = self._log.next_op_id()
        self._record(op, op_id, "invoke", value)
        self._pending = _Pending(op, (op_id,), items, page=page)
        return request

    def _body(self, planned: PlannedOperation) -> dict[str, Any]:
        body = dict(planned.request)
        if planned.run_after is not None:
            body["run_at"] = self._log.instant(planned.run_after, planned.offset_minutes)
        return body

    def _submitted(self, planned: PlannedOperation, body: dict[str, Any]) -> dict[str, Any]:
        """Return the value of a submit's invoke (``chaos.history.records.Op``)."""
        sent = {"key": planned.key, "run_at": body.get("run_at"), "effect": planned.effect}
        if self._secret is not None:
            sent |= {"key_namespace": planned.api_key, "secret": self._secret[0]}
        return body | sent

    def _settle(self, planned: PlannedOperation, outcome: Outcome, value: dict[str, Any]) -> None:
        """Remember the task id; if nothing is known to be stored, schedule another submit."""
        again = is_repeated(outcome, value)
        if outcome == "ok" and value["task_id"] is not None:
            self._ids[planned.key] = value["task_id"]
        elif again and self._resends.get(planned.key, 0) < RESENDS_MAX:
            self._resends[planned.key] = self._resends.get(planned.key, 0) + 1
            at = self._log.now() + RESEND_AFTER_SECONDS
            single = replace(planned, kind="submit")
            heapq.heappush(self._schedule, (at, next(self._order), single))

    def _record(
        self, op: Name, op_id: str, kind: Literal["invoke"] | Outcome, value: dict[str, Any]
    ) -> None:
        self._log.record(
            Op(
                op=op,
                type=kind,
                op_id=op_id,
                process=self._process,
                at=self._log.now(),
                value=value,
            )
        )


def is_repeated(outcome: Outcome, value: Mapping[str, Any]) -> bool:
    """Return whether a submit with this completion is sent again: it may not be stored."""
    return outcome == "info" or str(value.get("problem")) in NOTHING_DONE


def api_of(number: int, apis: Sequence[str]) -> str:
    """Return the API that a client talks to; clients are spread evenly over the APIs."""
    return apis[number % len(apis)]


def interpret(op: str, status: int, body: Any) -> tuple[Outcome, dict[str, Any]]:
    """Return the outcome and the value of the completion. Status 0: there was no response."""
    content = body if isinstance(body, dict) else {}
    answer: dict[str, Any] = {"status": status}
    if not 200 <= status < 300:
        return _refused(op, answer, content)
    if op == "submit":
        answer |= {"task_id": content.get("id"), "task": content}
    elif op == "cancel":
        answer |= {"answer": "requested" if status == 202 else "cancelled", "task": content}
    elif op == "retry":
        answer |= {"answer": "retried", "task": content}
    elif op == "get":
        answer |= {"state": content.get("state"), "task": content}
    elif op == "events":
        answer["events"] = content.get("events", [])
    elif op == "list":
        answer["tasks"] = content.get("tasks", [])
        answer["next_cursor"] = content.get("next_cursor")
    return "ok", answer


def _refused(
    op: str, answer: dict[str, Any], content: dict[str, Any]
) -> tuple[Outcome, dict[str, Any]]:
    """Interpret a response that is not a success; a problem says by its type what was done."""
    problem = str(content.get("type", "")).rpartition(":")[2]
    answer["error"] = str(content.get("detail", ""))[:300]
    if problem:
        answer["problem"] = problem
    if content.get("errors"):
        answer["pointers"] = [error.get("pointer") for error in content["errors"]]
    known: dict[str, Any] | None = None
    match op, answer["status"]:
        case "get", 404:
            known = {"state": None}
        case "events", 404:
            known = {"events": None}
        case "cancel" | "retry", 409:
            refusal = "too_late" if op == "cancel" else "refused"
            known = {"answer": refusal, "state": content.get("state")}
        case "cancel" | "retry", 503 if problem == _DONE:
            known = {"answer": "done"}
        case "submit", _:
            answer["task_id"] = content.get("task_id")
        case _:
            pass
    if known is not None:
        return "ok", answer | known
    unknown = answer["status"] == 0 or answer["status"] >= 500
    return "info" if unknown and problem not in NOTHING_DONE else "fail", answer


def _results(response: Response) -> list[_Result]:
    """Return the answer to each submit of a batch; empty if the response covers them all."""
    content = response.body if isinstance(response.body, dict) else {}
    return [
        _Result(
            result.get("status", 0),
            result.get("task") or result.get("problem"),
            result.get("index", -1),
        )
        for result in content.get("results") or []
    ]


def _within(prefix: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return the pointers of a refusal relative to the item at ``prefix``."""
    pointers = value.get("pointers", ())
    return {"pointers": [str(each).removeprefix(prefix) for each in pointers]} if pointers else {}
