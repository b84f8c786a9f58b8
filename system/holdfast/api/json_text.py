"""Parse JSON text at a bounded cost: count the values before they become Python objects."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from holdfast.model.payload import DEPTH_MAX, PayloadError, count_fault

_PART_BYTES = 1 << 16


class MalformedJson(ValueError):
    """The text is not JSON in UTF-8."""

    def __init__(self, defect: str, at: int) -> None:
        """``at``: the offset of the defect in bytes."""
        super().__init__(defect)
        self.at = at

    def located(self, text: bytes) -> str:
        """Return what is wrong, and where in the text; a column counts characters."""
        line = text.count(b"\n", 0, self.at) + 1
        before = text[text.rfind(b"\n", 0, self.at) + 1 : self.at]
        column = len(before.decode(errors="replace")) + 1
        return f"{self} at line {line} column {column}."


class NotUtf8(MalformedJson):
    """The byte at the offset is not one of UTF-8."""

    def __init__(self, at: int) -> None:
        super().__init__("not UTF-8", at)

    def located(self, text: bytes) -> str:
        """Return the offset: the text has no characters to count."""
        return f"The body is not UTF-8: the byte at offset {self.at} is invalid."


def parse(text: bytes) -> Any:
    """Parse the text. NaN, long integers and lone surrogates pass: validation locates them.

    Raises:
        PayloadError: it has too many values, is nested too deeply, or a number is too long.
        MalformedJson: another defect.
    """
    # Strings may contain brackets and commas.
    if _count_fault([text]) and (fault := _count_fault(_outside_strings(text))):
        raise PayloadError(fault)
    try:
        return from_json(text, cache_strings="none")  # its cache slows down objects of many keys
    except ValueError:
        return _parse_again(text)


def _outside_strings(text: bytes) -> Iterator[bytes]:
    """Yield what is not within quotes, in parts: a piece between two quotes takes 50 bytes."""
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    inside = 0
    for start in range(0, len(unescaped), _PART_BYTES):
        pieces = unescaped[start : start + _PART_BYTES].split(b'"')
        yield b"".join(pieces[inside::2])
        inside = (inside + len(pieces) - 1) % 2


def _count_fault(parts: Iterable[bytes]) -> str | None:
    containers = commas = 0
    for part in parts:
        containers += part.count(b"[") + part.count(b"{")
        commas += part.count(b",")
    return count_fault(containers, containers + commas)


def _parse_again(text: bytes) -> Any:
    """Parse what the fast parser refused: this one names the defect, or accepts the text."""
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise NotUtf8(error.start) from error
    except json.JSONDecodeError as error:
        at = len(error.doc[: error.pos].encode())
        raise MalformedJson(error.msg.removesuffix(" at"), at) from error
    except RecursionError as error:
        raise PayloadError(f"nested deeper than {DEPTH_MAX} levels") from error
    except ValueError as error:
        # The interpreter limits integers to 4,300 digits.
        detail = f"a number has more than {sys.get_int_max_str_digits()} digits"
        raise PayloadError(detail) from error
