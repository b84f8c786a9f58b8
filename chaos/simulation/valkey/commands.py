"""Classify commands to Redis for the bridge: which block, which wake others, which are refused.

A command is its list of words as received. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Command = list[bytes]

# Commands that the server flags as nondeterministic, but that are deterministic here.
_TAMED = frozenset(
    {
        "dump",
        "hscan",  # the order depends on the hash seed, which is fixed
        "object|encoding",
        "object|refcount",
        "pttl",  # without expiry there is only one reply
        "scan",
        "sscan",
        "ttl",
        "xadd",
        "xautoclaim",
        "xclaim",
        "xinfo|consumers",
        "xpending",
        "xtrim",
        "zscan",
    }
)
_PARKED = frozenset({"xread", "xreadgroup"})
_HARMLESS_ADMIN = frozenset({"config|get"})
_EXPIRING = re.compile(r"h?p?expire(at)?|p?setex|getex|hsetex|hgetex")
_EXPIRY_OF_SET = frozenset({b"EX", b"PX", b"EXAT", b"PXAT"})
_WITHOUT_KEYS = frozenset({"flushall", "flushdb", "swapdb", "eval", "evalsha", "fcall"})
_LOOKED_AT = frozenset({"hello", "xinfo", "xpending", "exec", "quit"})
_MASKS = (
    # HELLO and XINFO CONSUMERS: names and values. -1 means "never".
    (re.compile(rb"(\$2\r\nid\r\n:)\d+"), rb"\g<1>1"),
    (re.compile(rb"(\$(?:4\r\nidle|8\r\ninactive)\r\n:)\d+"), rb"\g<1>0"),
    # XPENDING: id, consumer, idle, deliveries.
    (re.compile(rb"(\*4\r\n\$\d+\r\n\d+-\d+\r\n\$\d+\r\n.*?\r\n:)\d+(\r\n:\d+\r\n)"), rb"\g<1>0\2"),
)


class CommandTable:
    """The server's description of its commands (its reply to COMMAND, as RESP2)."""

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._flags: dict[str, frozenset[bytes]] = {}
        self._tips: dict[str, frozenset[bytes]] = {}
        self._containers: set[str] = set()
        for row in rows:
            self._add(row)
            for subcommand in row[9]:
                self._containers.add(row[0].decode())
                self._add(subcommand)

    def name(self, command: Command) -> str:
        """Return the full name in lower case, like "xadd" or "config|get"."""
        first = command[0].decode(errors="replace").lower()
        if first in self._containers and len(command) > 1:
            return f"{first}|{command[1].decode(errors='replace').lower()}"
        return first

    def refusal(self, command: Command) -> str | None:
        """Return why a command cannot be simulated; None if it can."""
        name = self.name(command)
        flags = self._flags.get(name, frozenset())
        if b"blocking" in flags and name not in _PARKED:
            return "it would block inside the real server; use XREAD or XREADGROUP"
        if b"pubsub" in flags or name in {"client|reply", "client|tracking"}:
            return "the server would push messages; use streams"
        if b"admin" in flags and name not in _HARMLESS_ADMIN:
            return "it changes or reveals the real server behind the bridge"
        varies = b"nondeterministic_output" in self._tips.get(name, ()) or name == "client|id"
        if varies and name not in _TAMED:
            return "its reply differs between runs"
        return _by_the_servers_clock(name, [word.upper() for word in command])

    def _add(self, row: Sequence[Any]) -> None:
        name = row[0].decode()
        self._flags[name] = frozenset(row[2])
        self._tips[name] = frozenset(row[7])


def _by_the_servers_clock(name: str, words: Command) -> str | None:
    why = "it depends on the server's clock, which is real here; use no expiry or idle times"
    idle_at = {"xclaim": 4, "xautoclaim": 4}.get(name)
    decides = (
        _EXPIRING.fullmatch(name) is not None
        or (name == "set" and not _EXPIRY_OF_SET.isdisjoint(words[3:]))
        or (name == "restore" and words[2:3] != [b"0"])
        or (name == "xpending" and words[3:4] == [b"IDLE"])
        or (idle_at is not None and words[idle_at : idle_at + 1] != [b"0"])
        or (name == "xinfo|stream" and b"FULL" in words[3:])
        or name == "reset"
    )
    return why if decides else None


def about(command: Command) -> str:
    """Describe a command by its keys or first words; a hint completely."""
    if hint := hint_of(command):
        return f"XADD {command[1].decode(errors='replace')} {hint[0]} {hint[1]}"
    words = [word.decode(errors="replace") for word in command]
    keys = [key.decode(errors="replace") for key in streams(command)]
    return " ".join([words[0].upper(), *(keys or words[1:2])])


def lower_name(command: Command) -> str:
    """Return the first word in lower case."""
    return command[0].decode(errors="replace").lower()


def block_seconds(command: Command) -> float | None:
    """Return how long an XREAD or XREADGROUP blocks (0: forever); None if it does not."""
    if lower_name(command) not in _PARKED:
        return None
    words = [word.upper() for word in command[: _streams_at(command)]]
    # Skip the two words after GROUP: a group or consumer may be named BLOCK.
    start = 4 if words[1:2] == [b"GROUP"] else 1
    while start < len(words):
        if words[start] == b"BLOCK" and start + 1 < len(words):
            value = words[start + 1]
            return int(value) / 1000 if value.isdigit() else None
        start += 1 if words[start] in {b"NOACK", b"CLAIM"} else 2
    return None


def _streams_at(command: Command) -> int:
    start = 4 if [word.upper() for word in command[1:2]] == [b"GROUP"] else 1
    for number in range(start, len(command)):
        if command[number].upper() == b"STREAMS":
            return number
    return len(command)


def streams(command: Command) -> dict[bytes, bytes]:
    """Return keys and ids of an XREAD or XREADGROUP; nothing for other commands."""
    if lower_name(command) not in _PARKED:
        return {}
    rest = command[_streams_at(command) + 1 :]
    half = len(rest) // 2
    return dict(zip(rest[:half], rest[half:], strict=False))


def with_ids(command: Command, ids: Mapping[bytes, bytes]) -> Command:
    """Return the read with other ids for some streams."""
    found = streams(command) | dict(ids)
    return [*command[: _streams_at(command) + 1], *found, *found.values()]


def group_of(command: Command) -> bytes | None:
    """Return the group of an XREADGROUP; None for an XREAD."""
    return command[2] if lower_name(command) == "xreadgroup" and len(command) > 2 else None


def _id_at(command: Command) -> int | None:
    """Return the index of the id of an XADD; None if it is not a well-formed XADD."""
    at = 2
    while at < len(command):
        word = command[at].upper()
        if word == b"NOMKSTREAM":
            at += 1
        elif word in {b"MAXLEN", b"MINID"}:
            at += 3 if command[at + 1 : at + 2] in ([b"="], [b"~"]) else 2
        elif word == b"LIMIT":
            at += 2
        else:
            return at
    return None


def stamped(command: Command, milliseconds: int) -> Command:
    """Return an ``XADD key *`` with an id of the virtual clock; other commands unchanged."""
    if lower_name(command) != "xadd":
        return command
    at = _id_at(command)
    if at is None or command[at] != b"*":
        return command
    return [*command[:at], b"%d-*" % milliseconds, *command[at + 1 :]]


def hint_of(command: Command) -> tuple[str, int] | None:
    """Return task id and epoch if the command appends a hint to the stream of a queue."""
    at = _id_at(command) if lower_name(command) == "xadd" else None
    if at is None or b":hints:" not in command[1]:
        return None
    rest = command[at + 1 :]
    fields = dict(zip(rest[::2], rest[1::2], strict=False))
    epoch = fields.get(b"epoch", b"")
    if b"id" not in fields or not epoch.isdigit():
        return None
    return fields[b"id"].decode(errors="replace"), int(epoch)


def may_wake(command: Command, keys: frozenset[bytes]) -> bool:
    """Return whether reads that wait for its keys must be retried after this command."""
    return lower_name(command) in _WITHOUT_KEYS or not keys.isdisjoint(command[1:])


def needs_a_look(command: Command) -> bool:
    """Return whether its reply must be inspected, so the command must be sent alone."""
    return lower_name(command) in _LOOKED_AT


def masked(reply: bytes) -> bytes:
    """Return the reply without values that differ between runs: client ids, idle times.

    Idle times are measured by the server's real clock, so all are replaced by 0.
    """
    for pattern, replacement in _MASKS:
        reply = pattern.sub(replacement, reply)
    return reply
