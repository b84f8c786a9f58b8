"""The clients, driven by Locust: ``python -m locust -f chaos/locustfile.py --headless``.

Each user takes its share of the planned operations in order, at the planned instants, and records
every one as invoke and completion (``chaos.records.Op``). What is not known is info, never fail:
timeouts, broken connections, 5xx. After an unknown submit the same key is sent again, as an
operation of its own. Nothing else is ever retried.

Environment: CHAOS_APIS (JSON list of URLs, shared out among the clients), CHAOS_PLAN (JSON list of
operations), CHAOS_OPS (JSON lines to write), CHAOS_GO (a file that appears, with the Unix time of
arena second 0). ``time.sleep`` is made cooperative by Locust.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from locust import HttpUser, constant, events, task
from locust.exception import StopUser

from chaos.history import HistoryWriter
from chaos.records import Op
from chaos.workload import CLIENT_TIMEOUT_SECONDS, CLIENTS, Planned, from_json, share

# Longer than any outage of a scenario: a client that wants its task stored goes on asking.
RESENDS_MAX = 40
RESEND_AFTER_SECONDS = 0.7
Outcome = Literal["ok", "fail", "info"]
Name = Literal["submit", "get", "cancel", "list"]


class Clients:
    """What all users of this process share: the plan, the clock, the record."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        plan = json.loads(Path(environment["CHAOS_PLAN"]).read_text(encoding="utf-8"))
        self.plan = from_json(plan)
        self.history = HistoryWriter(Path(environment["CHAOS_OPS"]))
        self.apis: list[str] = json.loads(environment["CHAOS_APIS"])
        self._go = Path(environment["CHAOS_GO"])
        self._zero: float | None = None
        self._op_ids = itertools.count(1)
        self.numbers = itertools.count()
        self.working = CLIENTS

    @property
    def zero(self) -> float:
        """Unix time of arena second 0; waits for it."""
        while self._zero is None:
            if self._go.exists():
                self._zero = float(self._go.read_text(encoding="ascii"))
            else:
                time.sleep(0.01)
        return self._zero

    def now(self) -> float:
        """Seconds since the start of the run."""
        return time.time() - self.zero

    def next_op_id(self) -> str:
        """Numbers operations in the order of their invokes."""
        return f"op-{next(self._op_ids)}"

    def instant(self, seconds: float) -> str:
        """An arena second as ISO 8601."""
        moment = datetime.fromtimestamp(self.zero + seconds, UTC)
        return moment.isoformat().replace("+00:00", "Z")


class Client(HttpUser):
    """One client: a process of the history, with one operation at a time."""

    wait_time = constant(0)

    shared: Clients

    def on_start(self) -> None:
        self.number = next(self.shared.numbers)
        self.client.base_url = self.shared.apis[self.number % len(self.shared.apis)]
        self.ids: dict[str, str] = {}
        self.resends: dict[str, int] = {}
        # (second, order, operation): resends are added while the plan is worked off.
        mine = share(self.shared.plan, self.number)
        self.agenda = [(planned.at, n, planned) for n, planned in enumerate(mine)]
        self.order = itertools.count(len(mine))

    @task
    def work(self) -> None:
        """The whole share; then this user stops, and with the last one the process."""
        while self.agenda:
            at, _, planned = heapq.heappop(self.agenda)
            time.sleep(max(0.0, at - self.shared.now()))
            self._run(planned)
        self.shared.working -= 1
        if self.shared.working == 0:
            self.shared.history.close()
            self.environment.runner.quit()
        raise StopUser

    def _run(self, planned: Planned) -> None:
        if planned.kind in {"submit", "repeat"}:
            self._submit(planned)
        elif planned.kind == "batch":
            self._submit_batch(planned)
        elif planned.kind == "list":
            self._operation("list", {}, "GET", "/tasks/?limit=50")
        elif planned.key not in self.ids:
            return  # its submit is not known to have happened: there is no id to ask about
        elif planned.kind == "mismatch":
            self._submit(planned)
        elif planned.kind == "cancel":
            task_id = self.ids[planned.key]
            self._operation("cancel", {"task_id": task_id}, "POST", f"/tasks/{task_id}/cancel")
        else:
            task_id = self.ids[planned.key]
            self._operation("get", {"task_id": task_id}, "GET", f"/tasks/{task_id}")

    def _submit(self, planned: Planned) -> None:
        request = self._request(planned)
        value = _submitted(planned, request)
        outcome, answer = self._operation(
            "submit", value, "POST", "/tasks/", json=request, key=planned.key
        )
        self._settle(planned, outcome, answer)

    def _submit_batch(self, planned: Planned) -> None:
        """One request, but each submit in it is an operation that is answered by itself."""
        requests = [self._request(item) | {"idempotency_key": item.key} for item in planned.items]
        op_ids = [self.shared.next_op_id() for _ in requests]
        for op_id, item, request in zip(op_ids, planned.items, requests, strict=True):
            self._record("submit", op_id, "invoke", _submitted(item, request))
        status, body, error = self._send(
            "POST", "/tasks/batch", name="batch", json={"tasks": requests}
        )
        content = body if isinstance(body, dict) else {}
        results = content.get("results") or [{"status": status, "problem": content}] * len(op_ids)
        for op_id, item, result in zip(op_ids, planned.items, results, strict=True):
            told = result.get("task") or result.get("problem")
            outcome, answer = judge("submit", result["status"], told)
            self._record("submit", op_id, outcome, answer | error)
            self._settle(item, outcome, answer)

    def _request(self, planned: Planned) -> dict[str, Any]:
        request = dict(planned.request)
        if planned.run_after is not None:
            request["run_at"] = self.shared.instant(planned.run_after)
        return request

    def _settle(self, planned: Planned, outcome: Outcome, answer: dict[str, Any]) -> None:
        """Remember the id; what is not known is sent again under its key, as another operation."""
        if outcome == "ok" and answer["task_id"] is not None:
            self.ids[planned.key] = answer["task_id"]
        elif outcome == "info" and self.resends.get(planned.key, 0) < RESENDS_MAX:
            self.resends[planned.key] = self.resends.get(planned.key, 0) + 1
            again = self.shared.now() + RESEND_AFTER_SECONDS
            single = replace(planned, kind="submit")
            heapq.heappush(self.agenda, (again, next(self.order), single))

    def _operation(
        self,
        op: Name,
        value: dict[str, Any],
        method: str,
        path: str,
        *,
        json: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> tuple[Outcome, dict[str, Any]]:
        op_id = self.shared.next_op_id()
        self._record(op, op_id, "invoke", value)
        status, body, error = self._send(method, path, name=op, json=json, key=key)
        outcome, answer = judge(op, status, body)
        self._record(op, op_id, outcome, answer | error)
        return outcome, answer

    def _record(
        self, op: Name, op_id: str, kind: Literal["invoke"] | Outcome, value: dict[str, Any]
    ) -> None:
        self.shared.history.write(
            Op(
                op=op,
                type=kind,
                op_id=op_id,
                process=f"client-{self.number + 1}",
                at=self.shared.now(),
                value=value,
            )
        )

    def _send(
        self,
        method: str,
        path: str,
        *,
        name: str,
        json: dict[str, Any] | None,
        key: str | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """HTTP status (0: no answer), body, and what went wrong on the way."""
        with self.client.request(
            method,
            path,
            name=name,
            json=json,
            headers={} if key is None else {"Idempotency-Key": key},
            timeout=CLIENT_TIMEOUT_SECONDS,
            allow_redirects=False,
            catch_response=True,
        ) as response:
            wrong = response.error
            error = {} if wrong is None else {"error": repr(wrong)[:300]}
            # Whether Holdfast did right is judged from the history, not by Locust.
            response.success()
            return response.status_code, _body(response), error


def _submitted(planned: Planned, request: dict[str, Any]) -> dict[str, Any]:
    """What the invoke of a submit says (``chaos.records.Op``)."""
    return {
        "key": planned.key,
        "name": request["name"],
        "payload": request["payload"],
        "run_at": request.get("run_at"),
        "effect": planned.effect,
    }


def _share_clients(**_: Any) -> None:
    Client.shared = Clients(os.environ)


# Not when this file is imported: Locust itself imports it more than once.
events.init.add_listener(_share_clients)  # type: ignore[no-untyped-call]


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


def _body(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
