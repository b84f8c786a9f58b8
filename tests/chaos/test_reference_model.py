"""The reference model agrees with the documents, and with the product's table of the lifecycle.

The model was written without the product; only here do the two meet.
"""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.checker.model import json_value
from chaos.checker.model.configuration import Configuration
from chaos.checker.model.due import back_off
from chaos.checker.model.life import Ending, Life
from chaos.checker.model.outcome import Ended, Limits, objection
from chaos.checker.model.request import Asked, same, stored
from chaos.scenario.faults import DeclaredSettings
from chaos.tasks.declarations import DECLARATIONS, Declaration
from examples import examples
from holdfast.model import payload as payloads
from holdfast.model.lifecycle import Backoff, Counters, Reason, State, after_attempt, is_legal

OPENAPI = Path(__file__).parents[1] / "unit" / "golden" / "openapi.json"
LEDGER = DECLARATIONS["chaos_ledger"]


def _schema() -> dict[str, Any]:
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    schema: dict[str, Any] = document["components"]["schemas"]["TaskRequest"]
    return schema


def test_the_model_has_every_field_of_a_submit_with_its_documented_default() -> None:
    schema = _schema()
    modelled = {each.name: each for each in fields(Asked)}
    assert set(schema["properties"]) == set(modelled)
    required = {
        name
        for name, each in modelled.items()
        if each.default is MISSING and each.default_factory is MISSING
    }
    assert required == set(schema["required"])
    for name, described in schema["properties"].items():
        if "default" in described:
            assert modelled[name].default == described["default"], name


def test_the_model_stores_every_field_of_a_submit() -> None:
    body = {
        "name": "chaos_ledger",
        "payload": {"n": [1, None, "é"]},
        "run_at": "2026-01-09T12:00:00+02:00",
        "queue": "other",
        "priority": 9,
        "max_attempts": 4,
        "timeout_seconds": 2.5,
    }
    asked = Asked.of(body, "Key")
    assert {each.name for each in fields(asked)} == {*body, "idempotency_key"}
    found = stored(asked, LEDGER, Configuration(max_losses=7))
    for each in fields(asked):
        assert getattr(found, each.name) == getattr(asked, each.name)
    assert found.run_at is not None
    assert (found.run_at.isoformat(), found.max_losses) == ("2026-01-09T10:00:00+00:00", 7)


def test_limits_are_asked_else_declared_else_configured() -> None:
    configured = Configuration.of({"max_attempts": 8, "attempt_timeout_seconds": 9, "label": "x"})
    asked = Asked.of({"name": "chaos_ledger", "max_attempts": None})
    of_handler = stored(asked, LEDGER, configured)
    assert of_handler.max_attempts == LEDGER.max_attempts
    assert of_handler.timeout_seconds == LEDGER.timeout_seconds
    silent = replace(LEDGER, max_attempts=None, timeout_seconds=None)
    for declared in (silent, None):
        found = stored(asked, declared, configured)
        assert (found.max_attempts, found.timeout_seconds) == (8, 9)
    own = stored(replace(asked, max_attempts=1, timeout_seconds=0.5), LEDGER, configured)
    assert (own.max_attempts, own.timeout_seconds) == (1, 0.5)


def test_defaults_are_those_of_the_documented_settings() -> None:
    documented = DeclaredSettings()
    for each in fields(Configuration):
        assert each.default == getattr(documented, each.name), each.name


@pytest.mark.parametrize("name", [each.name for each in fields(Asked)])
def test_requests_that_differ_in_one_field_differ(name: str) -> None:
    other: dict[str, Any] = {
        "name": "Chaos_ledger",
        "payload": {"n": True},
        "run_at": "2026-01-09T10:00:00.000001Z",
        "queue": "Default",
        "priority": 1,
        "max_attempts": 5,
        "timeout_seconds": 300.0,
        "idempotency_key": "Key",
    }
    body = {"name": "chaos_ledger", "payload": {"n": 1}, "idempotency_key": "key"}
    assert same(Asked.of(body), Asked.of(body))
    assert not same(Asked.of(body), Asked.of(body | {name: other[name]}))


def test_notation_makes_no_difference() -> None:
    body = {"name": "chaos_ledger", "payload": {"a": 1, "b": [2.0]}, "timeout_seconds": 5}
    other = body | {"payload": {"b": [2], "a": 1.0}, "timeout_seconds": 5.0, "queue": "default"}
    assert same(
        Asked.of(body | {"run_at": "2026-01-09T10:00:00"}),
        Asked.of(other | {"run_at": "2026-01-09T11:00:00+01:00"}),
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-1e15, 1e15) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_json_values_are_equal_only_if_written_equally(one: Any, other: Any) -> None:
    assert json_value.equal(one, one)
    assert json_value.equal(one, other) == json_value.equal(other, one)
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert json_value.equal(one, other)
        assert json_value.digest(one) == json_value.digest(other)


def test_the_digest_is_that_of_the_stored_notation() -> None:
    assert json_value.digest({"n": 1e16, "z": -0.0}) == json_value.digest({"z": 0.0, "n": 10**16})
    assert json_value.digest({"n": 1.5}) != json_value.digest({"n": 1})
    assert (
        payloads.encode({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    )  # canonical means the same


# Ends that a worker or a scheduler may report, with what the product calls them.
ENDS = st.sampled_from([end for end in Ending if end is not Ending.CANCELLED])


@given(
    st.lists(st.tuples(ENDS, st.booleans(), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 4),
)
@examples(300)
def test_the_model_agrees_with_the_table_of_the_lifecycle(
    ends: list[tuple[Ending, bool, bool]], max_attempts: int, max_losses: int
) -> None:
    """Walk both through the same ends; each step: an end, whether cancelled, whether retried."""
    life = Life(max_attempts=max_attempts, max_losses=max_losses)
    table = Counters(max_attempts=max_attempts, max_losses=max_losses)
    for end, cancelled, retried in ends:
        life = life.claimed()
        life = life.cancel_asked() if cancelled else life
        life = life.ended(end)
        table = replace(
            table,
            attempt=table.attempt + 1,
            losses=table.losses + (end is Ending.LOST),
            handed_back=table.handed_back + (end is Ending.HANDED_BACK),
        )
        target = after_attempt(table, Reason(end), cancel_requested=cancelled)
        assert life.state == target
        assert is_legal(State.RUNNING, target, Reason(end))
        assert (life.attempts, life.failures + (end is Ending.SUCCEEDED)) == (
            table.attempt,
            table.used,
        )
        if target is State.FAILED and retried:
            life = life.retried()
            table = replace(
                table,
                max_attempts=max(table.max_attempts, table.used + 1),
                max_losses=max(table.max_losses, table.losses + 1),
            )
            assert is_legal(State.FAILED, State(life.state), Reason.RETRIED)
        elif target.terminal:
            break


def test_every_end_of_the_model_is_a_reason_of_the_log() -> None:
    assert {*Ending} <= {*Reason}


@given(
    st.builds(
        Declaration,
        name=st.just("any"),
        effect=st.just("ledger"),
        max_attempts=st.none(),
        timeout_seconds=st.none(),
        base_seconds=st.floats(0, 10, allow_subnormal=False),
        factor=st.floats(1, 10),
        max_seconds=st.floats(0.1, 60),
        jitter=st.floats(0, 1),
    ),
    st.integers(1, 400),
    st.floats(0, 1, exclude_max=True),
)
@examples(200)
def test_every_delay_lies_within_that_of_the_model(
    declared: Declaration, failures: int, uniform: float
) -> None:
    product = Backoff(
        declared.base_seconds, declared.factor, declared.max_seconds, declared.jitter
    ).delay_seconds(failures, uniform)
    delay = back_off(declared, failures)
    rounding = 1e-9 * delay.latest + sys.float_info.min  # below, floats lose their precision
    assert delay.earliest - rounding <= product <= delay.latest + rounding


@pytest.mark.parametrize(
    ("name", "failures", "earliest", "latest"),
    [
        ("chaos_ledger", 1, 0.1, 0.2),
        ("chaos_ledger", 3, 0.4, 0.8),
        ("chaos_ledger", 9, 1.0, 2.0),
        ("chaos_ledger_steady", 2, 0.45, 0.45),
        ("chaos_sql_brief", 5, 0.08, 0.4),
    ],
)
def test_back_off(name: str, failures: int, earliest: float, latest: float) -> None:
    delay = back_off(DECLARATIONS[name], failures)
    assert (delay.earliest, delay.latest) == pytest.approx((earliest, latest))


LIMITS = Limits(timeout_seconds=4.0, grace_seconds=1.0, handler_seconds=0.8, claim_seconds=0.5)


def _ended(end: Ending, **evidence: Any) -> Ended:
    usual: dict[str, Any] = {
        "seconds": 1.0,
        "by_scheduler": False,
        "owner_dead": False,
        "owner_stopped": False,
        "owner_retired": False,
        "knows_name": True,
        "cancel_requested": False,
    }
    return Ended(end=end, **usual | evidence)


RETIRED = {"owner_dead": True, "owner_retired": True, "by_scheduler": True}
PLANNED = 'planned: x seen {"attempt": 1}'
UNSTORABLE = "the result at /value cannot be stored as JSON: NaN"


@pytest.mark.parametrize(
    ("do", "effect", "ended"),
    [
        (None, "ledger", _ended(Ending.SUCCEEDED)),
        ("return", "sql", _ended(Ending.SUCCEEDED)),
        ("swallow", "ledger", _ended(Ending.TIMED_OUT, seconds=4.0, error="Stopped")),
        ("swallow", "ledger", _ended(Ending.SUCCEEDED, cancel_requested=True)),
        ("swallow", "ledger", _ended(Ending.SUCCEEDED, owner_stopped=True)),
        (None, "ledger", _ended(Ending.HANDED_BACK, seconds=1.0, error="NotStarted")),
        ("kill", "sql", _ended(Ending.HANDED_BACK, **RETIRED, seconds=0.1, error="NotStarted")),
        (
            "fail",
            "sql",
            _ended(Ending.FAILED, seconds=0.4, error="PlannedFailure", message=PLANNED),
        ),
        ("fail", "ledger", _ended(Ending.FAILED, error="PlannedFailure", message=PLANNED)),
        ("fail_late", "external", _ended(Ending.FAILED, error="PlannedFailure", message=PLANNED)),
        ("fail_late", "external", _ended(Ending.FAILED, error="Retry", message="the sink did")),
        ("fail_late", "sql", _ended(Ending.FAILED, error="OutcomeUnknown", message="no reply")),
        ("unstorable", "sql", _ended(Ending.FAILED, error="Unstorable", message=UNSTORABLE)),
        ("unstorable", "external", _ended(Ending.FAILED, error="Retry", message="the sink did")),
        ("retry", "sql", _ended(Ending.FAILED, error="Retry", message=PLANNED)),
        ("discard", "external", _ended(Ending.DISCARDED, error="Discard", message=PLANNED)),
        ("hang", "ledger", _ended(Ending.TIMED_OUT, seconds=4.0, error="Stopped")),
        ("hang", "ledger", _ended(Ending.TIMED_OUT, seconds=3.6, error="Stopped")),
        ("hang", "ledger", _ended(Ending.TIMED_OUT, seconds=5.0, by_scheduler=True)),
        ("kill", "ledger", _ended(Ending.LOST, owner_dead=True, by_scheduler=True)),
        ("fail", "ledger", _ended(Ending.LOST, owner_dead=True, by_scheduler=True)),
        ("hang", "ledger", _ended(Ending.CANCELLED, cancel_requested=True, error="Stopped")),
        ("hang", "ledger", _ended(Ending.HANDED_BACK, owner_stopped=True, error="Stopped")),
        ("kill", "ledger", _ended(Ending.HANDED_BACK)),
        ("fail", "sql", _ended(Ending.HANDED_BACK, knows_name=False, error="UnknownName")),
        (None, "external", _ended(Ending.FAILED, error="Retry", message="the sink did not")),
        ("leave", "sql", _ended(Ending.FAILED, error="OutcomeUnknown", message="no reply")),
    ],
)
def test_ends_that_may_be(do: str | None, effect: str, ended: Ended) -> None:
    assert objection(ended, do, effect, LIMITS) is None


@pytest.mark.parametrize(
    ("do", "effect", "ended"),
    [
        (None, "ledger", _ended(Ending.FAILED, error="PlannedFailure", message=PLANNED)),
        (None, "ledger", _ended(Ending.FAILED, error="OutcomeUnknown", message="no reply")),
        (None, "external", _ended(Ending.FAILED, error="Retry", message=PLANNED)),
        (None, "sql", _ended(Ending.FAILED)),
        (None, "sql", _ended(Ending.FAILED, error="TypeError", message="unhashable")),
        (None, "sql", _ended(Ending.FAILED, error="Retry", message="the sink did not")),
        (None, "ledger", _ended(Ending.DISCARDED, error="Discard", message=PLANNED)),
        ("fail", "ledger", _ended(Ending.SUCCEEDED)),
        ("unstorable", "ledger", _ended(Ending.SUCCEEDED)),
        ("unstorable", "ledger", _ended(Ending.DISCARDED, error="Unstorable", message=UNSTORABLE)),
        ("unstorable", "ledger", _ended(Ending.FAILED, error="TypeError", message=UNSTORABLE)),
        ("unstorable", "ledger", _ended(Ending.FAILED, error="Unstorable", message="unknown")),
        (None, "ledger", _ended(Ending.FAILED, error="Unstorable", message=UNSTORABLE)),
        ("fail_late", "external", _ended(Ending.SUCCEEDED)),
        (
            "fail_late",
            "sql",
            _ended(Ending.FAILED, seconds=0.7, error="PlannedFailure", message=PLANNED),
        ),
        ("fail", "sql", _ended(Ending.FAILED, error="OutcomeUnknown", message="no reply")),
        ("fail", "ledger", _ended(Ending.FAILED, error="Retry", message=PLANNED)),
        (
            "retry",
            "ledger",
            _ended(Ending.FAILED, error="Retry", message="the handler asked for"),
        ),
        ("fail", "ledger", _ended(Ending.DISCARDED, error="PlannedFailure", message=PLANNED)),
        ("discard", "ledger", _ended(Ending.FAILED, error="Discard", message=PLANNED)),
        ("hang", "ledger", _ended(Ending.SUCCEEDED)),
        ("hang", "ledger", _ended(Ending.FAILED, error="CancelledError")),
        ("hang", "ledger", _ended(Ending.TIMED_OUT, seconds=3.4, error="Stopped")),
        ("hang", "ledger", _ended(Ending.TIMED_OUT, seconds=4.9, by_scheduler=True)),
        ("kill", "ledger", _ended(Ending.SUCCEEDED)),
        ("kill", "ledger", _ended(Ending.LOST, **RETIRED)),
        (None, "ledger", _ended(Ending.HANDED_BACK, **RETIRED)),
        ("swallow", "ledger", _ended(Ending.SUCCEEDED, seconds=9.0)),
        (None, "ledger", _ended(Ending.HANDED_BACK, seconds=0.4, error="NotStarted")),
        (None, "ledger", _ended(Ending.SUCCEEDED, seconds=0.7)),
        (
            "fail",
            "sql",
            _ended(Ending.FAILED, seconds=0.3, error="PlannedFailure", message=PLANNED),
        ),
        (None, "ledger", _ended(Ending.LOST, by_scheduler=True)),
        ("hang", "ledger", _ended(Ending.CANCELLED, error="Stopped")),
        ("hang", "ledger", _ended(Ending.HANDED_BACK, error="Stopped")),
        ("fail", "sql", _ended(Ending.HANDED_BACK, error="UnknownName")),
    ],
)
def test_ends_that_may_not_be(do: str | None, effect: str, ended: Ended) -> None:
    assert objection(ended, do, effect, LIMITS)
