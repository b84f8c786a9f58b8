"""The items of a batch are found without parsing it, in any layout that JSON allows."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from holdfast.api.batch_text import NotABatch, split
from holdfast.api.json_text import MalformedJson
from holdfast.model.payload import PayloadError

TURN_SECONDS = 0.1
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


def found(text: bytes) -> list[bytes]:
    items = [item for item in split(text) if item is not None]
    assert all(text[start:].startswith(item) for start, item in items)
    return [item for _, item in items]


@examples(400)
@given(items=st.lists(VALUES, max_size=6), indent=st.none() | st.integers(0, 3), wide=st.booleans())
def test_items_are_those_of_the_parsed_batch(
    items: list[Any], indent: int | None, *, wide: bool
) -> None:
    text = json.dumps({"tasks": items}, indent=indent, ensure_ascii=not wide).encode(
        "utf-8", "surrogatepass"
    )
    assert [json.loads(item) for item in found(text)] == items


@pytest.mark.parametrize("text", [b'{"tasks":[1,]}', b'{"tasks":[,1]}'])
def test_a_missing_item_is_an_item(text: bytes) -> None:
    assert sorted(found(text)) == [b"", b"1"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"tasks":{}}',
        b'{"tasks":[1],"more":2}',
        b'{"a":1,"tasks":[]}',
        b'{"tasks":[1}',
    ],
)
def test_another_shape_is_no_batch(text: bytes) -> None:
    with pytest.raises(NotABatch):
        found(text)


@pytest.mark.parametrize("text", [b'{"tasks":[', b'{"tasks":[{"a":[', b'{"tasks":["a]}'])
def test_a_batch_that_ends_early_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedJson):
        found(text)


SIZE = 2_000_000


@pytest.mark.parametrize(
    "inside",
    [
        pytest.param("[" * SIZE, id="brackets"),
        pytest.param('["' * (SIZE // 2), id="brackets and quotes"),
        pytest.param('"' * SIZE, id="quotes"),
        pytest.param('"' + '\\"' * (SIZE // 2), id="an escaped string without end"),
        pytest.param("[" + "[]," * (SIZE // 3) + "0]", id="empty arrays"),
        pytest.param('{"a":[' + '[1,[{"a":[2]}]],' * (SIZE // 16) + "0]}", id="nested arrays"),
        pytest.param(" " * SIZE, id="space"),
    ],
)
def test_the_loop_can_turn_in_any_text(inside: str) -> None:
    text = f'{{"tasks":[{inside}]}}'.encode()
    steps, longest = split(text), 0.0
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except (StopIteration, MalformedJson, NotABatch, PayloadError):
            break
        finally:
            longest = max(longest, time.thread_time() - began)
    assert longest <= TURN_SECONDS
