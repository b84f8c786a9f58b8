"""Text as a terminal shows it: counted in cells, with nothing in it that moves the cursor."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """One line: control characters, line breaks and lone surrogates are shown as ``?``."""
    return "".join("?" if unicodedata.category(char)[0] == "C" else char for char in text)


def cells(text: str) -> int:
    """How many columns a clean text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, width: int) -> str:
    """At most ``width`` columns of a clean text; ``…`` stands for what is left out."""
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
    """Exactly ``width`` columns: cut, or filled up with blanks."""
    short = cut(text, width)
    return short + " " * (width - cells(short))


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
