"""Describe an exception of a handler as JSON; no exception can prevent it.

An exception is code of the handler: its text, its attributes and its metaclass may raise anything.
An attempt whose end cannot be described would never be ended, and its task would run forever.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

import orjson

from holdfast.handlers.errors import Discard, Retry

_TRACEBACK_CHARACTERS_MAX = 16_000
_MESSAGE_CHARACTERS_MAX = 2_000


def error_detail(error: BaseException) -> str:
    """Return type, message and traceback as JSON that Postgres can store.

    Bounded, without NUL and surrogates. ``Retry`` and ``Discard`` are no faults: no traceback.
    """
    explanation = {"type": type_name(error), "message": text_of(error)}
    if not issubclass(type(error), Retry | Discard):
        explanation["traceback"] = _bounded(_traceback(error))
    return explained(**explanation)


def explained(**explanation: str) -> str:
    """Return the detail of an end: its ``type``, ``message`` and perhaps ``traceback``."""
    cleaned = {key: _clean(text) for key, text in explanation.items()}
    return orjson.dumps({"error": cleaned}).decode()


def type_name(error: BaseException) -> str:
    """Return the name of its class, whatever the metaclass says."""
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name


def text_of(error: BaseException, make: Callable[[BaseException], str] = str) -> str:
    """Return at most 2,000 characters of its text; if it has none, why."""
    try:
        return str.__str__(make(error))[:_MESSAGE_CHARACTERS_MAX]
    except BaseException as failure:  # noqa: BLE001  raised by the handler's own code
        return f"(its text cannot be made: {type_name(failure)})"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001  likewise
        frames = BaseException.__dict__["__traceback__"].__get__(error)
        return "Traceback (most recent call last):\n" + "".join(traceback.format_tb(frames))


def _bounded(lines: str) -> str:
    if len(lines) <= _TRACEBACK_CHARACTERS_MAX:
        return lines
    half = _TRACEBACK_CHARACTERS_MAX // 2  # either end may be one very long message
    return f"{lines[:half]}\n...\n{lines[-half:]}"


def _clean(text: str) -> str:
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
