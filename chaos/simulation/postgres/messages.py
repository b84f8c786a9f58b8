"""The part of Postgres's wire protocol (version 3) that the bridge needs."""

from __future__ import annotations

import re
import struct

CANCEL_REQUEST = 80877102
SSL_REQUEST = 80877103
GSS_REQUEST = 80877104

# Messages that a backend may send at any time, without a request.
UNASKED = frozenset(b"NSA")
SYNC = b"S\x00\x00\x00\x04"
FLUSH = b"H\x00\x00\x00\x04"
TERMINATE = b"X\x00\x00\x00\x04"

# The replies that complete each frontend message; earlier ones (rows) belong to them.
COMPLETE = {
    ord("P"): b"1",
    ord("B"): b"2",
    ord("C"): b"3",
    ord("D"): b"Tn",
    ord("E"): b"CIs",
    ord("S"): b"Z",
    ord("Q"): b"Z",
}
# Replies to an Execute or a simple query that give the outcome of a statement.
OUTCOMES = b"CIsE"
# The text of deadlock errors, with process and transaction ids that differ from run to run.
_DEADLOCK = "40P01"

Message = tuple[int, bytes]
"""A message: its type (one byte, as a number) and its bytes, header included."""


def frame(kind: bytes, *parts: bytes) -> bytes:
    """Return a message of this type."""
    body = b"".join(parts)
    return kind + struct.pack("!i", len(body) + 4) + body


def split(buffer: bytearray) -> list[Message]:
    """Remove and yield the complete messages at the front of ``buffer``."""
    found = []
    data = bytes(buffer)
    start, end = 0, len(data)
    while end - start >= 5:
        after = start + 1 + int.from_bytes(data[start + 1 : start + 5], "big")
        if after > end:
            break
        found.append((data[start], data[start:after]))
        start = after
    del buffer[:start]
    return found


def startup(**parameters: str) -> bytes:
    """Return the first message of a connection."""
    words = [word for pair in parameters.items() for word in pair]
    body = b"".join(word.encode() + b"\0" for word in words) + b"\0"
    return struct.pack("!ii", len(body) + 8, 196608) + body


def with_setting(startup_message: bytes, name: str, value: str) -> bytes:
    """Return a startup message that also sets a parameter of the session."""
    body = startup_message[8:-1] + f"options\0-c {name}={value}\0\0".encode()
    return struct.pack("!i", len(body) + 8) + startup_message[4:8] + body


def query(sql: str) -> bytes:
    """Return a simple query."""
    return frame(b"Q", sql.encode(), b"\0")


def command(sql: str) -> tuple[bytes, list[bytes]]:
    """Return ``sql`` in the extended protocol under a separate name, and what completes each reply.

    Unlike a simple query it keeps the unnamed statement and portal of the client. It closes what it
    left the last time, which after an error it could not.
    """
    name = f"simulation {sql}\0".encode()
    data = (
        frame(b"C", b"S", name)
        + frame(b"P", name, sql.encode(), b"\0\0\0")
        + frame(b"B", name, name, b"\0\0" * 3)
        + frame(b"E", name, b"\0\0\0\0")
    )
    return data, [b"3", b"1", b"2", b"C"]


def strings(message: bytes, count: int, start: int = 5) -> list[str]:
    """Return the first ``count`` zero-terminated strings of a message from ``start`` on."""
    found = message[start:].split(b"\0", count)[:count]
    return [text.decode(errors="replace") for text in found]


def fields(message: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse or NoticeResponse: C is the SQLSTATE, M the text."""
    parts = message[5:].split(b"\0")
    return {part[:1].decode(): part[1:].decode(errors="replace") for part in parts if part}


def fatal(sqlstate: str, text: str) -> bytes:
    """Return the error that a backend sends before it ends."""
    said = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text}
    return frame(b"E", *(f"{key}{value}\0".encode() for key, value in said.items()), b"\0")


def outcome(message: bytes) -> str:
    """Return the command tag, or the SQLSTATE of an error."""
    match message[:1]:
        case b"C":
            return strings(message, 1)[0]
        case b"E":
            return fields(message)["C"]
        case b"s":
            return "PORTAL SUSPENDED"
        case _:
            return "EMPTY"


def repeatable(message: bytes) -> bytes:
    """Return an ErrorResponse without process and transaction ids in its details."""
    found = fields(message)
    if found.get("C") != _DEADLOCK:
        return message
    for key in "DW":
        if key in found:
            found[key] = re.sub(r"\d+", "N", found[key])
    return frame(b"E", *(f"{key}{value}\0".encode() for key, value in found.items()), b"\0")


def reworded(message: bytes, text: str) -> bytes:
    """Return an ErrorResponse with another text."""
    found = fields(message) | {"M": text}
    return frame(b"E", *(f"{key}{value}\0".encode() for key, value in found.items()), b"\0")


def rows(messages: list[Message]) -> list[list[str]]:
    """Return the values of all DataRows in text format; NULL as an empty text."""
    return [_row(message) for kind, message in messages if kind == ord("D")]


def _row(message: bytes) -> list[str]:
    values = []
    at = 7
    for _ in range(int.from_bytes(message[5:7], "big")):
        size = int.from_bytes(message[at : at + 4], "big", signed=True)
        at += 4
        values.append(message[at : at + max(size, 0)].decode())
        at += max(size, 0)
    return values
