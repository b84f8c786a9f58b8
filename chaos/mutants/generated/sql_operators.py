"""Find the changes that generic operators can make to SQL inside a string literal.

The text is a fragment as often as a statement, and an f-string has holes: no parser of SQL reads
that. So the operators look for tokens and for the parentheses around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SQL = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE \w+|DELETE FROM|WHERE|ORDER BY|VALUES|MATERIALIZED|CAST|AND|NULL"
    r"|FOR UPDATE|LIMIT|clock_timestamp)\b"
)
_HOLE = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_QUOTED = re.compile(r"'[^']*'")
# What an equals sign is, follows from the nearest keyword before it.
_CONTEXT = re.compile(r"\b(SET|WHERE|AND|OR|ON|WHEN|NOT|END|SELECT|FROM|THEN|ELSE)\b")
_CONDITIONS = ("WHERE", "AND", "OR", "ON", "WHEN", "NOT")
# Ends a conjunct, if not inside parentheses that it opened.
_CONJUNCT_END = re.compile(
    r"\b(AND|OR|ORDER|LIMIT|FOR|RETURNING|GROUP|WHEN|THEN|ELSE|END|UNION|LEFT|JOIN)\b|,"
)
_COMMA = re.compile(",")
_ASSIGNMENTS_END = re.compile(r"\b(FROM|WHERE|RETURNING)\b|$")
_KEY_END = re.compile(r",|\)|$|\b(?:LIMIT|FOR|NULLS)\b", re.MULTILINE)

_SIMPLE: tuple[tuple[str, str, str], ...] = (
    (r"(?<![<>=!-])<=", "<", "sql comparison"),
    (r"(?<![<>=!-])>=", ">", "sql comparison"),
    (r"(?<![<>=!-])<(?![<>=])", "<=", "sql comparison"),
    (r"(?<![<>=!-])>(?![<>=])", ">=", "sql comparison"),
    (r"<>", "=", "sql comparison"),
    (r"\bAND\b", "OR", "sql boolean"),
    (r"\bOR\b", "AND", "sql boolean"),
    (r"\bIS NULL\b", "IS NOT NULL", "sql null"),
    (r"\bIS NOT NULL\b", "IS NULL", "sql null"),
    (r"\bNOT EXISTS\b", "EXISTS", "sql null"),
    (r"\bNOT IN\b", "IN", "sql null"),
    (r" DESC\b", "", "sql order"),
    (r" [+-] 1\b(?!\.)", "", "sql off by one"),
    (r"(?<= )\+(?= )", "-", "sql arithmetic"),
    (r"(?<= )-(?= )", "+", "sql arithmetic"),
    (r"\bclock_timestamp\(\)", "(clock_timestamp() - interval '1 second')", "sql now"),
    (r"\bGREATEST\b", "LEAST", "sql opposite"),
    (r"\bLEAST\b", "GREATEST", "sql opposite"),
    (r"\bmin\b(?=\()", "max", "sql opposite"),
    (r"\bmax\b(?=\()", "min", "sql opposite"),
    (r"\btrue\b", "false", "sql constant"),
    (r"\bfalse\b", "true", "sql constant"),
    (r" SKIP LOCKED\b", "", "sql clause"),
    (r"\s+ON CONFLICT DO NOTHING\b", "", "sql clause"),
)
_NUMBER = re.compile(r"(?<![\w.:$\[])(\d+)(?![\w.\]])")


@dataclass(frozen=True, slots=True)
class SqlChange:
    """Replaces the characters from ``start`` to ``end`` of a text by ``new``."""

    start: int
    end: int
    new: str
    operator: str


def changes(text: str, *, formatted: bool = False) -> Iterator[SqlChange]:
    """Yield the changes to ``text`` if it is SQL. ``formatted``: it is the text of an f-string."""
    if not _SQL.search(text):
        return
    plain = _QUOTED.sub(_blank, _HOLE.sub(_blank, text) if formatted else text)
    for pattern, new, operator in _SIMPLE:
        for match in re.finditer(pattern, plain):
            yield SqlChange(match.start(), match.end(), new, operator)
    for match in _NUMBER.finditer(plain):
        yield SqlChange(match.start(), match.end(), str(int(match[1]) + 1), "sql off by one")
    for find in (_equals, _ascending, _conjuncts, _assignments, _coalesced):
        yield from find(text, plain)


def _blank(match: re.Match[str]) -> str:
    """Hide a text from the patterns, but keep its length."""
    return "_" * len(match[0])


def _equals(text: str, plain: str) -> Iterator[SqlChange]:
    """Invert each equality of a condition; leave assignments alone."""
    for match in re.finditer(r"(?<= )=(?= )", plain):
        words = _CONTEXT.findall(plain[: match.start()])
        condition = words[-1] in _CONDITIONS if words else not _depth_commas(plain)
        if condition:
            yield SqlChange(match.start(), match.end(), "<>", "sql comparison")


def _depth_commas(plain: str) -> list[int]:
    """Return the positions of the commas outside all parentheses."""
    return [at for at in range(len(plain)) if plain[at] == "," and _depth(plain, 0, at) == 0]


def _depth(plain: str, start: int, end: int) -> int:
    part = plain[start:end]
    return part.count("(") - part.count(")")


def _end(plain: str, start: int, pattern: re.Pattern[str]) -> int:
    """Return where what begins at ``start`` ends: at ``pattern``, or at the closing parenthesis."""
    depth = 0
    for at in range(start, len(plain)):
        depth += {"(": 1, ")": -1}.get(plain[at], 0)
        if depth < 0 or (depth == 0 and plain[at] != ")" and pattern.match(plain, at)):
            return at
    return len(plain)


def _ascending(text: str, plain: str) -> Iterator[SqlChange]:
    """Reverse the first key of each ORDER BY that ascends."""
    for match in re.finditer(r"\bORDER BY ", plain):
        end = _end(plain, match.end(), _KEY_END)
        key = text[match.end() : end].rstrip()
        if not key.endswith("DESC") and "{" not in key:
            at = match.end() + len(key)
            yield SqlChange(at, at, " DESC", "sql order")


def _conjuncts(text: str, plain: str) -> Iterator[SqlChange]:
    """Remove each conjunct after an AND, and the one between WHERE and an AND."""
    for match in re.finditer(r"\s+AND\s+", plain):
        end = _end(plain, match.end(), _CONJUNCT_END)
        kept = len(text[: match.start()] + text[match.start() : end].rstrip())
        yield SqlChange(match.start(), kept, "", "sql conjunct")
    for match in re.finditer(r"\bWHERE\s+", plain):
        end = _end(plain, match.end(), _CONJUNCT_END)
        if plain[end : end + 3] == "AND":
            yield SqlChange(match.end(), end + 4, "", "sql conjunct")


def _assignments(text: str, plain: str) -> Iterator[SqlChange]:
    """Remove each assignment of a SET that has several, or of a fragment of one."""
    fragment = not _CONTEXT.search(plain) and re.match(r"\s*\w+ = ", plain)
    starts = [m.end() for m in re.finditer(r"\bSET ", plain)] + ([0] if fragment else [])
    for start in starts:
        end = _end(plain, start, _ASSIGNMENTS_END)
        commas = [
            at for at in range(start, end) if plain[at] == "," and _depth(plain, start, at) == 0
        ]
        for at, following in zip(commas, [*commas[1:], end], strict=False):
            kept = len(text[:at] + text[at:following].rstrip())
            yield SqlChange(at, kept, "", "sql statement")


def _coalesced(text: str, plain: str) -> Iterator[SqlChange]:
    """Swap the first two arguments of each COALESCE."""
    for match in re.finditer(r"\bCOALESCE\(", plain):
        first = _end(plain, match.end(), _COMMA)
        second = _end(plain, first + 1, _COMMA)
        a, b = text[match.end() : first], text[first + 1 : second]
        yield SqlChange(match.end(), second, f"{b.strip()}, {a}", "sql arguments")
