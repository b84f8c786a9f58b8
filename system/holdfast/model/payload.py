"""Validate and encode payloads: only JSON that Postgres stores and returns equal.

``jsonb`` refuses NUL and lone surrogates; JSON has neither NaN nor Infinity; some parsers fail
beyond 100 levels, and integers beyond 64 bits lose digits. Numbers keep their value, not their
notation: ``1e2`` is returned as ``100``.

The number of values is limited, since it decides what a payload costs: an empty array is two
bytes of JSON and 64 bytes of memory, an object with one member 7 and 190.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import orjson

DEPTH_MAX = 100
BYTES_MAX = 1 << 20
CONTAINERS_MAX = 40_000
VALUES_MAX = 150_000
INTEGER_MIN = -(1 << 63)
INTEGER_MAX = (1 << 64) - 1

_BUFFER_BYTES = 4096
# Types whose values pass without a check of their own: by each walk, and by the first one, since
# orjson refuses strings, keys and integers that cannot be stored.
_SOUND = frozenset[type]({bool, type(None)})
_SOUND_AT_FIRST = _SOUND | {str, int}
_CONTAINERS = frozenset[type]({list})
_CONTAINERS_AT_FIRST = _CONTAINERS | {dict}


class PayloadError(ValueError):
    """The value at ``pointer`` (a JSON pointer inside the payload) cannot be stored."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class PayloadTooLarge(PayloadError):
    """The payload exceeds the size limit, measured as compact JSON."""


def encode(payload: Any, bytes_max: int = BYTES_MAX) -> bytes:
    """Return ``payload`` as canonical JSON text: keys sorted, no spaces, UTF-8 not escaped.

    Any JSON value is accepted: the results of handlers follow the same rules.

    Raises:
        PayloadError: a value cannot be stored; the message and ``pointer`` identify it.
        PayloadTooLarge: more than ``bytes_max`` bytes.
    """
    _raise_first_fault(payload, thorough=False)
    try:
        text = orjson.dumps(payload, _of_subclass, orjson.OPT_SORT_KEYS)
    except TypeError:
        _raise_first_fault(payload, thorough=True)
        text = _encode_keys_of_subclasses(payload)
    if len(text) > bytes_max:
        raise PayloadTooLarge(f"the payload has {len(text)} bytes, at most {bytes_max} are allowed")
    if b"\\u0000" in text:
        _raise_first_fault(payload, thorough=True)
    # A small text keeps orjson's buffer of 4 KiB; the spare memory of a large one is never touched.
    return bytes(memoryview(text)) if len(text) < _BUFFER_BYTES else text


def encode_python(payload: dict[str, Any], bytes_max: int = BYTES_MAX) -> bytes:
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


def count_fault(containers: int, values: int) -> str | None:
    """Return that there are too many values; ``values`` includes the ``containers``."""
    if containers > CONTAINERS_MAX:
        return (
            f"more than {CONTAINERS_MAX} objects and arrays: store it elsewhere, send a reference"
        )
    if values > VALUES_MAX:
        return f"more than {VALUES_MAX} values: store it elsewhere, send a reference"
    return None


def _of_subclass(value: object) -> object:
    """Convert what orjson does not: named tuples, and subclasses of float such as NumPy's."""
    return float(value) if isinstance(value, float) else list(value)  # type: ignore[call-overload]


def _encode_keys_of_subclasses(payload: object) -> bytes:
    """Encode a payload with keys such as those of a ``StrEnum``; all of them are str."""
    option = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(payload, _of_subclass, option)
    except TypeError as error:
        raise PayloadError(f"not storable as JSON: {error}") from error


def _raise_first_fault(payload: object, *, thorough: bool) -> None:
    """Raise for the first value that cannot be stored.

    Unless ``thorough``, leave out what orjson refuses by itself (strings, keys, long integers).
    Keep one key and one iterator for each level: a pointer is built only for the fault.
    """
    sound = _SOUND if thorough else _SOUND_AT_FIRST
    sound_containers = _CONTAINERS if thorough else _CONTAINERS_AT_FIRST
    path: list[object] = []
    levels: list[Iterator[tuple[object, object]]] = [iter([("", payload)])]
    containers, values, depth = 0, 1, 1
    while levels:
        for key, value in levels[-1]:
            kind = type(value)
            if kind in sound or _is_sound(value, kind):
                continue
            if depth > DEPTH_MAX or (
                kind not in sound_containers and not _is_sound_dict(value, kind)
            ):
                if fault := _fault(value, depth, thorough=thorough):
                    raise PayloadError(fault, _pointer([*path, key]))
                if not isinstance(value, dict | list | tuple):
                    continue
            containers += 1
            if not value:
                continue
            values += len(value)  # type: ignore[arg-type]
            path.append(key)
            items = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
            levels.append(iter(items))
            depth += 1
            break
        else:
            levels.pop()
            depth -= 1
            del path[-1:]
        if fault := count_fault(containers, values):
            raise PayloadError(fault)


def _is_sound(value: Any, kind: type) -> bool:
    """Return whether a value is sound, at less cost than ``_fault``; False if that must look."""
    if kind is str:
        return _string_fault(value) is None
    if kind is int:
        return bool(INTEGER_MIN <= value <= INTEGER_MAX)
    return kind is float and math.isfinite(value)


def _is_sound_dict(value: Any, kind: type) -> bool:
    """Return whether all keys of a dict are sound, at less cost than one by one."""
    try:
        return kind is dict and _string_fault("".join(value)) is None
    except TypeError:
        return False


def _fault(value: object, depth: int, *, thorough: bool) -> str | None:
    """Return why a value cannot be stored, without looking inside it; None if it can."""
    fault: str | None = None
    match value:
        case dict() | list() | tuple() if depth > DEPTH_MAX:
            fault = f"nested deeper than {DEPTH_MAX} levels"
        case dict() if thorough:
            fault = next((found for key in value if (found := _key_fault(key))), None)
        case str() if thorough:
            fault = _string_fault(value)
        case float() if not math.isfinite(value):
            fault = f"{value} is not a JSON number"
        case int() if not INTEGER_MIN <= value <= INTEGER_MAX:
            fault = "an integer beyond 64 bits would lose digits: send it as a string"
        case None | bool() | int() | float() | str() | list() | tuple() | dict():
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
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains a lone surrogate, which is not a character"
    return None


def _pointer(path: list[object]) -> str:
    """Return the pointer to a value below the payload; the first key is the payload itself."""
    return "".join(f"/{escape(key)}" for key in path[1:])


def escape(key: object) -> str:
    """Return ``key`` as a reference token of a JSON pointer (RFC 6901), safe to print."""
    text = str(key)[:100].replace("~", "~0").replace("/", "~1")
    return text.encode("utf-8", "replace").decode()
