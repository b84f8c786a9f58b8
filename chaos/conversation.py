"""What one client asks, and what it makes of the answers: no I/O, the same in both arenas.

A client has one operation at a time, in the order of its share of the plan. Each is recorded as
invoke and completion (``chaos.records.Op``). What is not known is info, never fail: timeouts,
broken connections, 5xx. After an unknown submit the same key is sent again, as an operation of its
own. Nothing else is ever retried.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from chaos.records import Op
from chaos.workload import Planned, share

# Longer than any outage of a scenario: a client that wants its task stored goes on asking.
RESENDS_MAX = 40
RESEND_AFTER_SECONDS = 0.7
Outcome = Literal["ok", "fail", "info"]
Name = Literal["submit", "get", "cancel", "list"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``name``: its sort; ``body``: JSON; ``key``: its Idempotency-Key."""

    name: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that only this request has."""
        return {} if self.key is None else {"Idempotency-Key": self.key}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: HTTP ``status`` (0: nothing), ``body`` (None: no JSON), what went wrong."""

    status: int
    body: Any = None
    error: str | None = None


class Meeting:
    """What all clients of a run share: its record, its clock, the numbers of its operations.

    ``zero``: Unix time of arena second 0. ``clock``: Unix time now.
    """

    def __init__(
        self, record: Callable[[Op], None], zero: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self.record = record
        self._zero = zero
        self._clock = clock
        self._op_ids = itertools.count(1)

    def now(self) -> float:
        """Seconds since the start of the run."""
        zero = self._zero()  # first: it may wait for the start
        return self._clock() - zero

    def next_op_id(self) -> str:
        """Numbers operations in the order of their invokes."""
        return f"op-{next(self._op_ids)}"

    def instant(self, seconds: float) -> str:
        """An arena second as ISO 8601."""
        moment = datetime.fromtimestamp(self._zero() + seconds, UTC)
        return moment.isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request under way: its operations; if they are submits, what each was planned as."""

    op: Name
    op_ids: tuple[str, ...]
    items: tuple[Planned, ...] = ()
    is_batch: bool = False


class Conversation:
    """One client: a process of the history. Its caller waits, sends and brings the answers.

    As long as ``due`` is not None: wait for that second, ``ask``, send, ``hear``.
    """

    def __init__(self, number: int, plan: list[Planned], meeting: Meeting) -> None:
        self._number = number
        self._meeting = meeting
        self._ids: dict[str, str] = {}
        self._resends: dict[str, int] = {}
        # (second, order, operation): resends are added while the plan is worked off.
        mine = share(plan, number)
        self._agenda = [(planned.at, n, planned) for n, planned in enumerate(mine)]
        self._order = itertools.count(len(mine))
        self._asked: _Asked | None = None

    @property
    def due(self) -> float | None:
        """The arena second of the next operation; None: the share is worked off."""
        return self._agenda[0][0] if self._agenda else None

    def ask(self) -> Request | None:
        """Takes the next operation; its request, or None when there is nothing to ask about."""
        _, _, planned = heapq.heappop(self._agenda)
        if planned.kind in {"submit", "repeat"}:
            return self._ask_submit(planned)
        if planned.kind == "batch":
            return self._ask_batch(planned)
        if planned.kind == "list":
            return self._ask("list", Request("list", "GET", "/tasks/?limit=50"), {})
        if planned.key not in self._ids:
            return None  # its submit is not known to have happened: there is no id to ask about
        return self._ask_about(planned, self._ids[planned.key])

    def hear(self, answer: Answer) -> None:
        """Records what the answer to the last request means."""
        if self._asked is None:
            raise RuntimeError("an answer without a question: hear() follows ask()")
        asked, self._asked = self._asked, None
        error = {} if answer.error is None else {"error": answer.error}
        results = [(answer.status, answer.body)] * len(asked.op_ids)
        if asked.is_batch:
            results = _results(answer) or results
        for n, (op_id, (status, body)) in enumerate(zip(asked.op_ids, results, strict=True)):
            outcome, value = judge(asked.op, status, body)
            self._record(asked.op, op_id, outcome, value | error)
            if asked.items:
                self._settle(asked.items[n], outcome, value)

    def _ask_about(self, planned: Planned, task_id: str) -> Request:
        if planned.kind == "mismatch":
            return self._ask_submit(planned)
        value, path = {"task_id": task_id}, f"/tasks/{task_id}"
        if planned.kind == "cancel":
            return self._ask("cancel", Request("cancel", "POST", f"{path}/cancel"), value)
        return self._ask("get", Request("get", "GET", path), value)

    def _ask_submit(self, planned: Planned) -> Request:
        body = self._body(planned)
        request = Request("submit", "POST", "/tasks/", body, planned.key)
        return self._ask("submit", request, _submitted(planned, body), (planned,))

    def _ask_batch(self, planned: Planned) -> Request:
        """One request, but each submit in it is an operation that is answered by itself."""
        bodies = [self._body(item) | {"idempotency_key": item.key} for item in planned.items]
        op_ids = tuple(self._meeting.next_op_id() for _ in bodies)
        for op_id, item, body in zip(op_ids, planned.items, bodies, strict=True):
            self._record("submit", op_id, "invoke", _submitted(item, body))
        self._asked = _Asked("submit", op_ids, planned.items, is_batch=True)
        return Request("batch", "POST", "/tasks/batch", {"tasks": bodies})

    def _ask(
        self, op: Name, request: Request, value: dict[str, Any], items: tuple[Planned, ...] = ()
    ) -> Request:
        op_id = self._meeting.next_op_id()
        self._record(op, op_id, "invoke", value)
        self._asked = _Asked(op, (op_id,), items)
        return request

    def _body(self, planned: Planned) -> dict[str, Any]:
        body = dict(planned.request)
        if planned.run_after is not None:
            body["run_at"] = self._meeting.instant(planned.run_after)
        return body

    def _settle(self, planned: Planned, outcome: Outcome, value: dict[str, Any]) -> None:
        """Remember the id; what is not known is sent again under its key, as another operation."""
        if outcome == "ok" and value["task_id"] is not None:
            self._ids[planned.key] = value["task_id"]
        elif outcome == "info" and self._resends.get(planned.key, 0) < RESENDS_MAX:
            self._resends[planned.key] = self._resends.get(planned.key, 0) + 1
            again = self._meeting.now() + RESEND_AFTER_SECONDS
            single = replace(planned, kind="submit")
            heapq.heappush(self._agenda, (again, next(self._order), single))

    def _record(
        self, op: Name, op_id: str, kind: Literal["invoke"] | Outcome, value: dict[str, Any]
    ) -> None:
        self._meeting.record(
            Op(
                op=op,
                type=kind,
                op_id=op_id,
                process=f"client-{self._number + 1}",
                at=self._meeting.now(),
                value=value,
            )
        )


def api_of(number: int, apis: Sequence[str]) -> str:
    """The API that a client talks to: they are shared out among the clients."""
    return apis[number % len(apis)]


def judge(op: str, status: int, body: Any) -> tuple[Outcome, dict[str, Any]]:
    """What an answer means: outcome and value of the completion. Status 0: no answer came."""
    content = body if isinstance(body, dict) else {}
    answer: dict[str, Any] = {"status": status}
    if op == "submit":
        answer["task_id"] = content.get("id", content.get("task_id"))
    if status == 0 or status >= 500:
        return "info", answer
    if op == "get" and status == 404:
        return "ok", answer | {"state": None}
    if op == "cancel" and status == 409:
        return "ok", answer | {"answer": "too_late"}
    if not 200 <= status < 300:
        return "fail", answer | {"error": str(content.get("detail", ""))[:300]}
    if op == "cancel":
        answer["answer"] = "requested" if status == 202 else "cancelled"
    elif op == "get":
        answer["state"] = content.get("state")
    elif op == "list":
        answer["task_ids"] = [item["id"] for item in content.get("tasks", [])]
    return "ok", answer


def _results(answer: Answer) -> list[tuple[int, Any]]:
    """Status and body for each submit of a batch; empty: the answer is about all of them."""
    content = answer.body if isinstance(answer.body, dict) else {}
    return [
        (result["status"], result.get("task") or result.get("problem"))
        for result in content.get("results") or []
    ]


def _submitted(planned: Planned, body: dict[str, Any]) -> dict[str, Any]:
    """What the invoke of a submit says (``chaos.records.Op``)."""
    return {
        "key": planned.key,
        "name": body["name"],
        "payload": body["payload"],
        "run_at": body.get("run_at"),
        "effect": planned.effect,
    }
