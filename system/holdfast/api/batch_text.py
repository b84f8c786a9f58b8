"""Find the items in the text of a batch, so that each is parsed by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from holdfast.api.json_text import MalformedJson
from holdfast.model.payload import DEPTH_MAX, PayloadError

_SPACE = rb"[ \t\n\r]*+"
_BEGIN = re.compile(rb'%b\{%b"tasks"%b:%b\[' % (_SPACE, _SPACE, _SPACE, _SPACE))
_END = re.compile(rb"%b\}%b" % (_SPACE, _SPACE))
# Repetitions are bounded, so that one match does not hold the event loop.
_STRING = rb'"(?:[^"\\]++|\\.){0,1100000}+"'  # more than the longest item can have
_FLAT = rb'[\[{][^][{}"]*+(?:%b[^][{}"]*+){0,9999}+[\]}]' % _STRING  # nothing nested inside
_NESTED = rb'[\[{](?:[^][{}"]++|%b|%b){0,99}+[\]}]' % (_STRING, _FLAT)
_RUN = rb"(?:[^]%b[{}\"]++|%b|%b|%b){0,9999}+([]%b[{}])?"
_INSIDE = re.compile(_RUN % (b"", _STRING, _FLAT, _NESTED, b""), re.DOTALL)
_BETWEEN = re.compile(_RUN % (b",", _STRING, _FLAT, _NESTED, b","), re.DOTALL)
_DEPTH_MAX = 1_000  # far more than a payload may have
_BYTES_PER_TURN = 1 << 16
_MATCHES_PER_TURN = 2_000


class NotABatch(ValueError):
    """The text is not ``{"tasks": [...]}``, without other members."""


def split(text: bytes) -> Iterator[tuple[int, bytes] | None]:
    """Yield the offset and the text of each item of ``{"tasks": [...]}``.

    An item may be malformed. Yield None where the loop should turn.

    Raises:
        NotABatch: the text has another shape.
        MalformedJson: it ends early.
        PayloadError: an item is nested far too deeply.
    """
    begin = _BEGIN.match(text)
    if begin is None:
        raise NotABatch
    start = begin.end()
    for found in _marks(text, start):
        if found is None:
            yield None
            continue
        at, mark = found
        item = text[start:at]
        if mark == b"," or start > begin.end() or item.strip():
            yield start, item
        start = at + 1
        if mark != b",":
            break
    if _END.fullmatch(text, start) is None:
        raise NotABatch


def _marks(text: bytes, at: int) -> Iterator[tuple[int, bytes] | None]:
    """Yield the place of each comma between items, then of the bracket that ends them."""
    depth = matches = 0
    turned = at
    while True:
        found = (_INSIDE if depth else _BETWEEN).match(text, at)
        if found is None or found.end() == at:
            detail = "The array of tasks has no end, or a string in it has none or is too long"
            raise MalformedJson(detail, at)
        at, mark = found.end(), found[1]
        matches += 1
        if matches == _MATCHES_PER_TURN or at - turned >= _BYTES_PER_TURN:
            yield None
            matches, turned = 0, at
        if mark is not None and mark in b"[{":
            depth += 1
            if depth > _DEPTH_MAX:
                raise PayloadError(f"nested deeper than {DEPTH_MAX} levels")
        elif mark is not None and depth:
            depth -= 1
        elif mark is not None:
            yield at - 1, mark
