"""How a client interprets responses: without I/O, the same in every arena."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.clients.client import (
    RESEND_AFTER_SECONDS,
    RESENDS_MAX,
    Client,
    OperationLog,
    Request,
    Response,
    api_of,
    interpret,
)
from chaos.history.records import Op
from chaos.scenario.workload import PlannedOperation

ZERO = 1767225600.0  # 2026-01-01T00:00:00Z
BODY: dict[str, Any] = {"name": "chaos_ledger", "payload": {"number": 1}}


class Run:
    """One client with a clock that the test moves."""

    def __init__(self, *operations: PlannedOperation) -> None:
        self.seconds = 0.0
        self.ops: list[Op] = []
        log = OperationLog(self.ops.append, lambda: ZERO, lambda: ZERO + self.seconds)
        self.client = Client(0, list(operations), log)

    def next_request(self) -> Request | None:
        due = self.client.due
        assert due is not None
        self.seconds = max(self.seconds, due)
        return self.client.next_request()

    def exchange(self, *answer: Any) -> Request:
        request = self.next_request()
        assert request is not None
        self.seconds += 0.1
        self.client.handle_response(Response(*answer))
        return request

    @property
    def recorded(self) -> list[tuple[str, str, str]]:
        return [(op.op_id, op.op, op.type) for op in self.ops]


def submit(key: str, at: float = 1.0, kind: Any = "submit", **options: Any) -> PlannedOperation:
    return PlannedOperation(at, 0, kind, key, "ledger", request=BODY, **options)


def problem(name: str, **members: str) -> dict[str, str]:
    return {"type": f"urn:holdfast:problem:{name}"} | members


OVERLOADED, UNAVAILABLE = problem("overloaded"), problem("unavailable")
UNKNOWN, UNREAD = problem("outcome-unknown"), problem("done-but-unread")
KEY_REUSED = problem("idempotency-key-reused", task_id="t")
ENDED, RUNNING = {"state": "FAILED"}, {"id": "t", "state": "RUNNING"}
PAGE = {"tasks": [{"id": "a"}, {"id": "b"}], "next_cursor": "c"}


@pytest.mark.parametrize(
    ("op", "status", "body", "outcome", "value"),
    [
        ("submit", 201, {"id": "t"}, "ok", {"task_id": "t", "task": {"id": "t"}}),
        ("submit", 422, {"detail": "no"}, "fail", {"task_id": None, "error": "no"}),
        ("submit", 409, {"detail": "x" * 999}, "fail", {"task_id": None, "error": "x" * 300}),
        ("submit", 422, KEY_REUSED, "fail", {"task_id": "t", "problem": "idempotency-key-reused"}),
        ("submit", 503, None, "info", {"task_id": None}),
        ("submit", 503, OVERLOADED, "fail", {"task_id": None, "problem": "overloaded"}),
        ("submit", 503, UNAVAILABLE, "fail", {"task_id": None, "problem": "unavailable"}),
        ("submit", 503, UNKNOWN, "info", {"task_id": None, "problem": "outcome-unknown"}),
        ("submit", 0, None, "info", {"task_id": None}),
        ("cancel", 200, {"id": "t"}, "ok", {"answer": "cancelled", "task": {"id": "t"}}),
        ("cancel", 202, {"id": "t"}, "ok", {"answer": "requested", "task": {"id": "t"}}),
        ("cancel", 409, ENDED, "ok", {"answer": "too_late", "state": "FAILED"}),
        ("cancel", 500, {}, "info", {}),
        ("cancel", 503, UNAVAILABLE, "fail", {"problem": "unavailable"}),
        ("cancel", 503, UNREAD, "ok", {"answer": "done", "problem": "done-but-unread"}),
        ("cancel", 404, {}, "fail", {}),
        ("retry", 200, {"id": "t"}, "ok", {"answer": "retried", "task": {"id": "t"}}),
        ("retry", 409, ENDED, "ok", {"answer": "refused", "state": "FAILED"}),
        ("retry", 503, UNREAD, "ok", {"answer": "done", "problem": "done-but-unread"}),
        ("retry", 0, None, "info", {}),
        ("get", 200, RUNNING, "ok", {"state": "RUNNING", "task": RUNNING}),
        ("get", 404, {}, "ok", {"state": None}),
        ("get", 0, None, "info", {}),
        ("get", 503, UNAVAILABLE, "fail", {"problem": "unavailable"}),
        ("events", 200, {"events": [1]}, "ok", {"events": [1]}),
        ("events", 404, {}, "ok", {"events": None}),
        ("list", 200, PAGE, "ok", PAGE),
        ("list", 200, None, "ok", {"tasks": [], "next_cursor": None}),
    ],
)
def test_status_code_decides_the_outcome(
    op: str, status: int, body: Any, outcome: str, value: dict[str, Any]
) -> None:
    error = {} if 200 <= status < 300 else {"error": ""}
    assert interpret(op, status, body) == (outcome, {"status": status} | error | value)


def test_submit_is_recorded_as_invoke_and_completion() -> None:
    run = Run(submit("k", at=2.0, run_after=60.0))
    request = run.exchange(201, {"id": "t"})
    due = "2026-01-01T00:01:00Z"
    assert request == Request("submit", "POST", "/tasks/", BODY | {"run_at": due}, "k")
    assert request.headers == {"Idempotency-Key": "k"}
    invoke, completion = run.ops
    assert (invoke.at, completion.at) == pytest.approx((2.0, 2.1))
    assert invoke.process == completion.process == "client-1"
    assert invoke.value == BODY | {"key": "k", "run_at": due, "effect": "ledger"}
    assert completion.value == {"status": 201, "task_id": "t", "task": {"id": "t"}}
    assert run.client.due is None


def test_unknown_submit_is_resent_as_a_separate_operation() -> None:
    run = Run(submit("k"), submit("later", at=1.5))
    run.exchange(0, None, "ReadTimeout()")
    assert run.ops[-1].value == {"status": 0, "task_id": None, "error": "ReadTimeout()"}
    # Operations planned meanwhile are not delayed.
    assert run.exchange(201, {"id": "other"}).key == "later"
    assert run.client.due == pytest.approx(1.1 + RESEND_AFTER_SECONDS)
    again = run.exchange(200, {"id": "t"})
    assert (again.key, again.path) == ("k", "/tasks/")
    assert run.recorded == [
        ("op-1", "submit", "invoke"),
        ("op-1", "submit", "info"),
        ("op-2", "submit", "invoke"),
        ("op-2", "submit", "ok"),
        ("op-3", "submit", "invoke"),
        ("op-3", "submit", "ok"),
    ]


def test_client_limits_resends_and_never_resends_a_refusal() -> None:
    run = Run(submit("k"), submit("no"))
    run.exchange(503)
    run.exchange(422, {"detail": "no"})
    sends = 1
    while run.client.due is not None:
        assert run.exchange(503).key == "k"
        sends += 1
    assert sends == RESENDS_MAX + 1


def test_submit_that_did_nothing_is_sent_again() -> None:
    run = Run(submit("k"))
    run.exchange(503, OVERLOADED)
    assert run.ops[-1].type == "fail"
    assert run.exchange(201, {"id": "t"}).key == "k"
    assert run.client.due is None


def test_list_follows_its_cursor_for_the_planned_pages() -> None:
    query = {"limit": 2, "state": "FAILED"}
    run = Run(PlannedOperation(1.0, 0, "list", request=query, pages=2))
    assert run.exchange(200, PAGE).path == "/tasks/?limit=2&state=FAILED"
    assert run.exchange(200, PAGE).path == "/tasks/?limit=2&state=FAILED&cursor=c"
    assert run.client.due is None
    assert [op.value.get("query") for op in run.ops[::2]] == [query, query | {"cursor": "c"}]


def test_list_ends_with_its_last_page() -> None:
    run = Run(PlannedOperation(1.0, 0, "list", request={}, pages=9))
    run.exchange(200, PAGE | {"next_cursor": None})
    assert run.client.due is None


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("get", "GET", "/tasks/t"),
        ("events", "GET", "/tasks/t/events?limit=1000"),
        ("cancel", "POST", "/tasks/t/cancel"),
        ("retry", "POST", "/tasks/t/retry"),
    ],
)
def test_operations_about_a_task_name_its_id(kind: Any, method: str, path: str) -> None:
    run = Run(submit("k"), PlannedOperation(2.0, 0, kind, "k"))
    run.exchange(201, {"id": "t"})
    request = run.exchange(200, {})
    assert (request.method, request.path, request.body) == (method, path, None)
    assert run.ops[-2].value == {"task_id": "t"}


def test_get_and_cancel_are_skipped_for_an_unknown_task_id() -> None:
    companions = [PlannedOperation(2.0, 0, kind, "k") for kind in ("cancel", "get")]
    unknown = Run(submit("k"), *companions, submit("k", 3.0, "mismatch"))
    unknown.exchange(422, {})
    assert [unknown.next_request() for _ in range(3)] == [None, None, None]
    assert len(unknown.ops) == 2
    known = Run(submit("k"), *companions, submit("k", 3.0, "mismatch"))
    known.exchange(201, {"id": "t"})
    cancel, get, mismatch = (known.exchange(200, {}) for _ in range(3))
    assert (cancel.method, cancel.path) == ("POST", "/tasks/t/cancel")
    assert (get.method, get.path, get.headers) == ("GET", "/tasks/t", {})
    assert (mismatch.path, mismatch.key) == ("/tasks/", "k")


def test_each_submit_of_a_batch_has_its_own_outcome() -> None:
    items = tuple(submit(key) for key in "abc")
    run = Run(PlannedOperation(1.0, 0, "batch", "a", items=items))
    results = [
        {"status": 201, "task": {"id": "t"}},
        {"status": 422, "problem": {"detail": "no"}},
        {"status": 503, "problem": {}},
    ]
    request = run.exchange(200, {"results": results})
    assert request.key is None
    assert [body["idempotency_key"] for body in (request.body or {})["tasks"]] == ["a", "b", "c"]
    assert [op.type for op in run.ops] == ["invoke"] * 3 + ["ok", "fail", "info"]
    again = run.exchange(201, {"id": "u"})
    assert (again.path, again.key) == ("/tasks/", "c")
    assert run.client.due is None


def test_fault_of_an_item_is_recorded_relative_to_it() -> None:
    items = (submit("a"), submit("b", kind="invalid"), submit("c", kind="invalid"))
    run = Run(PlannedOperation(1.0, 0, "batch", "a", items=items))

    def refused(index: int) -> dict[str, Any]:
        errors = [{"detail": "too high", "pointer": "/tasks/1/priority"}]
        return {
            "index": index,
            "status": 422,
            "problem": problem("invalid-request") | {"errors": errors},
        }

    created = {"index": 0, "status": 201, "task": {"id": "t"}}
    run.exchange(200, {"results": [created, refused(1), refused(1)]})
    assert [op.value["index"] for op in run.ops] == [0, 1, 2, 0, 1, 1]
    assert [op.value.get("pointers") for op in run.ops[3:]] == [
        None,
        ["/priority"],
        ["/tasks/1/priority"],
    ]
    assert run.client.due is None


def test_batch_with_too_few_results_is_no_answer_to_the_others() -> None:
    run = Run(PlannedOperation(1.0, 0, "batch", "a", items=(submit("a"), submit("b"))))
    run.exchange(200, {"results": [{"index": 0, "status": 201, "task": {"id": "t"}}]})
    assert [op.value.get("task_id") for op in run.ops[2:]] == ["t", None]


def test_unanswered_batch_leaves_all_its_submits_unknown() -> None:
    run = Run(PlannedOperation(1.0, 0, "batch", "a", items=(submit("a"), submit("b"))))
    run.exchange(0, None, "broken")
    assert [op.type for op in run.ops] == ["invoke", "invoke", "info", "info"]
    assert {run.exchange(201, {"id": key}).key for key in "ab"} == {"a", "b"}


def test_response_without_a_request_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no request is pending"):
        Run(submit("k")).client.handle_response(Response(200))


def test_clients_are_spread_over_the_apis() -> None:
    assert [api_of(number, ("a", "b", "c")) for number in range(5)] == ["a", "b", "c", "a", "b"]


def test_submit_is_resent_with_the_secret_of_that_time() -> None:
    secrets = ((0.0, "old"), (1.5, "next"))
    run = Run(submit("a", api_key="shop", secrets=secrets))
    first = run.exchange(503, problem("unavailable"))
    second = run.exchange(201, {"id": "t"})
    assert [each.headers for each in (first, second)] == [
        {"Idempotency-Key": "a", "Authorization": f"Bearer {secret}"} for secret in ("old", "next")
    ]
    sent = [op.value for op in run.ops if op.type == "invoke"]
    assert [(v["key_namespace"], v["secret"]) for v in sent] == [("shop", 1), ("shop", 2)]


def test_client_without_an_api_key_sends_and_records_none() -> None:
    run = Run(submit("a"))
    assert "Authorization" not in run.exchange(201, {"id": "t"}).headers
    assert not {"key_namespace", "secret"} & run.ops[0].value.keys()
