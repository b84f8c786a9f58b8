"""Measure and cut text in terminal cells, free of characters that move the cursor."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """Replace control characters, line breaks and lone surrogates by ``?``."""
    return "".join("?" if unicodedata.category(char)[0] == "C" else char for char in text)


def cells(text: str) -> int:
    """Return the number of columns of a clean text."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, width: int) -> str:
    """Cut a clean text to at most ``width`` columns; ``…`` marks the omission."""
    if cells(text) <= width:
        return text
    kept, room = [], width - 1
    for char in text:
        room -= _cells(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept) + "…" if width > 0 else ""


def fit(text: str, width: int) -> str:
    """Cut or pad a clean text to exactly ``width`` columns."""
    short = cut(text, width)
    return short + " " * (width - cells(short))


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
