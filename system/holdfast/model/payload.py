"""Validate and encode payloads: only JSON that Postgres stores and returns equal.

``jsonb`` refuses NUL and lone surrogates; JSON has neither NaN nor Infinity; some parsers fail
beyond 100 levels, and integers beyond 64 bits lose digits. Numbers keep their value, not their
notation: ``1e2`` is returned as ``100``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import orjson

DEPTH_MAX = 100
BYTES_MAX = 1 << 20
INTEGER_MIN = -(1 << 63)
INTEGER_MAX = (1 << 64) - 1

_MANY_DIGITS = re.compile(r"[0-9]{19}")
# Shared: json.dumps with options builds an encoder per call, which takes half of its time.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
)


class PayloadError(ValueError):
    """The value at ``pointer`` (a JSON pointer inside the payload) cannot be stored."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class PayloadTooLarge(PayloadError):
    """The payload exceeds the size limit, measured as compact JSON."""


def encode(payload: Any, bytes_max: int = BYTES_MAX) -> str:
    """Return ``payload`` as canonical JSON text: keys sorted, no spaces, UTF-8 not escaped.

    Any JSON value is accepted: the results of handlers follow the same rules.

    Raises:
        PayloadError: a value cannot be stored; the message and ``pointer`` identify it.
        PayloadTooLarge: more than ``bytes_max`` bytes.
    """
    try:
        text = _ENCODER.encode(payload)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        # UnicodeEncodeError, a lone surrogate, is a ValueError.
        _raise_first_fault(payload)
        raise PayloadError(f"not storable as JSON: {error}") from error
    if size > bytes_max:
        raise PayloadTooLarge(f"the payload has {size} bytes, at most {bytes_max} are allowed")
    # Cheap checks of the text first: few payloads need the slow walk.
    nested = text.count("[") + text.count("{") > DEPTH_MAX
    if nested or "\\u0000" in text or _MANY_DIGITS.search(text):
        _raise_first_fault(payload)
    return text


def encode_python(payload: dict[str, Any], bytes_max: int = BYTES_MAX) -> str:
    """Encode a payload that was not parsed from JSON; refuse one that would change when read back.

    Raises:
        PayloadError: for example for tuples, or keys that are not strings.
    """
    text = encode(payload, bytes_max)
    if orjson.loads(text) != payload:
        raise PayloadError(
            "only dict with str keys, list, str, int, float, bool and None can be read back "
            "unchanged: convert tuples to lists and keys to str"
        )
    return text


def _raise_first_fault(payload: object) -> None:
    for pointer, depth, value in _walk(payload):
        fault = _fault(value, depth)
        if fault:
            raise PayloadError(fault, pointer)


def _fault(value: object, depth: int) -> str | None:
    """Return why a value cannot be stored, without looking inside it; None if it can."""
    fault: str | None = None
    match value:
        case str():
            fault = _string_fault(value)
        case float() if not math.isfinite(value):
            fault = f"{value} is not a JSON number"
        case int() if not INTEGER_MIN <= value <= INTEGER_MAX:
            fault = "an integer beyond 64 bits would lose digits: send it as a string"
        case dict() | list() | tuple() if depth > DEPTH_MAX:
            fault = f"nested deeper than {DEPTH_MAX} levels"
        case dict():
            fault = next((found for key in value if (found := _key_fault(key))), None)
        case None | bool() | int() | float() | list() | tuple():
            pass
        case _:
            fault = f"{type(value).__name__} is not a JSON type"
    return fault


def _key_fault(key: object) -> str | None:
    if not isinstance(key, str):
        return f"a key is {type(key).__name__}; keys must be strings"
    fault = _string_fault(key)
    return f"a key contains {fault.removeprefix('contains ')}" if fault else None


def _string_fault(text: str) -> str | None:
    if "\0" in text:
        return "contains the character NUL (\\u0000), which Postgres cannot store"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "contains a lone surrogate, which is not a character"
    return None


def _walk(payload: object) -> Iterator[tuple[str, int, object]]:
    """Yield (JSON pointer, depth, value) of every value inside, without recursion."""
    stack: list[tuple[str, int, object]] = [("", 1, payload)]
    while stack:
        pointer, depth, value = stack.pop()
        yield pointer, depth, value
        if isinstance(value, dict):
            items: list[tuple[object, object]] = list(value.items())
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        else:
            continue
        stack.extend((f"{pointer}/{escape(key)}", depth + 1, item) for key, item in reversed(items))


def escape(key: object) -> str:
    """Return ``key`` as a reference token of a JSON pointer (RFC 6901), safe to print."""
    text = str(key)[:100].replace("~", "~0").replace("/", "~1")
    return text.encode("utf-8", "replace").decode()
