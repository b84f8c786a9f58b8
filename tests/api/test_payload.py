"""The validator accepts exactly the payloads that jsonb stores and returns unchanged."""

from __future__ import annotations

import enum
import http
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from examples import examples
from holdfast.api.json_text import parse
from holdfast.model.payload import (
    CONTAINERS_MAX,
    DEPTH_MAX,
    VALUES_MAX,
    PayloadError,
    PayloadTooLarge,
    encode,
    encode_python,
)

# Any str, biased towards characters that JSON or Postgres reject.
TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=[]),
        st.sampled_from('\0\ud800\udfff\\u"/~\x7f\uffff\U0010ffff0'),
    ),
    max_size=8,
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(1 << 66), 1 << 66),
    st.floats(),
    st.sampled_from([1e23, 5e-324, -0.0, 1.7976931348623157e308, (1 << 64) - 1, -(1 << 63)]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
PAYLOADS = st.dictionaries(TEXTS, VALUES, max_size=5)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def equal(sent: object, back: object) -> bool:
    """Compare as JSON: an integral float may come back as the int of the same value."""
    match sent:
        case dict():
            return (
                isinstance(back, dict)
                and sent.keys() == back.keys()
                and all(equal(sent[key], back[key]) for key in sent)
            )
        case list():
            return isinstance(back, list) and len(sent) == len(back) and all(map(equal, sent, back))
        case bool() | None | str():
            return sent == back and type(sent) is type(back)
        case float():
            return isinstance(back, int | float) and sent == float(back)
        case _:
            pass
    return sent == back and type(sent) is type(back)


async def stored(connection: asyncpg.Connection, payload: dict[str, Any]) -> object:
    """Return the payload as the store reads it back from jsonb, or the error."""
    try:
        text = json.dumps(payload)
        back = await connection.fetchval("SELECT CAST(CAST($1 AS text) AS jsonb)", text)
        return orjson.loads(back)
    except (asyncpg.PostgresError, ValueError, UnicodeError) as error:
        return error


@examples(400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=PAYLOADS)
@example(payload={"a": math.nan})
@example(payload={"a": {"b": [math.inf]}})
@example(payload={"a": "\0"})
@example(payload={"\0": 1})
@example(payload={"a": "\\u0000"})
@example(payload={"a": 1 << 64})
@example(payload={"a": (1 << 64) - 1})
@example(payload={"a": -(1 << 63) - 1})
@example(payload={"a": 10**5000})
@example(payload={"a": "12345678901234567890123"})
async def test_payload_is_accepted_exactly_if_it_round_trips(
    connection: asyncpg.Connection, payload: dict[str, Any]
) -> None:
    back = await stored(connection, payload)
    faithful = equal(payload, back)
    text = encode_or_error(payload)
    if isinstance(text, PayloadError):
        assert not faithful, f"refused for no reason: {text}"
        return
    assert faithful, f"accepted, but comes back as {back!r}"
    again = await connection.fetchval("SELECT CAST(CAST($1 AS text) AS jsonb)", text)
    assert equal(payload, orjson.loads(again))


def encode_or_error(payload: dict[str, Any]) -> str | PayloadError:
    try:
        return encode(payload).decode()
    except PayloadError as error:
        return error


def nested(levels: int) -> dict[str, Any]:
    value: Any = []
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


def test_depth() -> None:
    encode(nested(DEPTH_MAX))
    for levels in (DEPTH_MAX + 1, 5000):
        with pytest.raises(PayloadError, match="nested deeper than 100"):
            encode(nested(levels))


def test_width_does_not_count_as_depth() -> None:
    encode({"a": [[] for _ in range(1000)], "b": "[" * 1000})


def test_text_is_canonical() -> None:
    expected = '{"a":"ä","b":1}'.encode()
    assert encode({"b": 1, "a": "ä"}) == expected == encode({"a": "ä", "b": 1})


def test_size_limit_counts_bytes() -> None:
    assert encode({"a": "ä"}, 10) == '{"a":"ä"}'.encode()
    with pytest.raises(PayloadTooLarge, match="10 bytes, at most 9"):
        encode({"a": "ä"}, 9)


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": {2.5: 1}}, object(), b"", {1, "a"}])
def test_python_values_that_json_would_change_are_refused(value: object) -> None:
    with pytest.raises(PayloadError):
        encode_python({"a": value})


def test_subclasses_of_json_types_are_written_as_their_values() -> None:
    class Kind(enum.StrEnum):
        A = "a"

    class Text(str):
        __slots__ = ()

    class Number(float):
        pass

    payload = {"b": [Kind.A, Text("t"), Number(0.5), http.HTTPStatus.OK], Kind.A: {Text("t"): 1}}
    assert encode(payload) == b'{"a":{"t":1},"b":["a","t",0.5,200]}'
    with pytest.raises(PayloadError, match="a key contains the character NUL"):
        encode({Text("\0"): 1})


def test_circular_payload_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(PayloadError):
        encode(circle)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param([[]] * CONTAINERS_MAX, "more than 40000 objects", id="arrays"),
        pytest.param([[{}] * 100] * 400, "more than 40000 objects", id="objects"),
        pytest.param([0] * VALUES_MAX, "more than 150000 values", id="numbers"),
        pytest.param([[0] * 1000] * 150, "more than 150000 values", id="arrays of numbers"),
    ],
)
def test_number_of_values_is_limited(value: Any, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        encode({"a": value})
    with pytest.raises(PayloadError, match=message):
        parse(json.dumps({"a": value}).encode())


def test_brackets_and_commas_in_strings_are_no_values() -> None:
    text = json.dumps({"a": "[{,\\" * 100_000, '"[{,' * 50_000: 1}).encode()
    assert json.loads(encode(parse(text))) == json.loads(text)


def test_honest_rows_of_a_mebibyte_are_accepted() -> None:
    rows = [{"id": n, "name": f"customer {n}", "ok": True, "v": 1.5} for n in range(17_500)]
    text = json.dumps({"rows": rows}).encode()
    assert json.loads(encode(parse(text))) == {"rows": rows}


def test_a_fault_is_located_below_long_and_escaped_keys() -> None:
    value: Any = ["fine", math.nan]
    for key in ("a/b", "~", "k" * 200):
        value = {"sound": [[]], key: value}
    with pytest.raises(PayloadError) as caught:
        encode(value)
    assert caught.value.pointer == f"/{'k' * 100}/~0/a~1b/1"
