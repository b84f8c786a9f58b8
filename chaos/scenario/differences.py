"""Make the tasks of a workload differ in everything that a request can say.

Each choice is drawn from a generator of its own, seeded with the key of the task, so that it
changes neither the other draws of the workload nor those of other tasks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from chaos.scenario.operations import UNKNOWN_QUEUE, Workload
from chaos.scenario.operations import other as other_queue
from chaos.tasks.declarations import DECLARATIONS, Declaration, names_of
from chaos.tasks.steps import UNSTORABLE
from holdfast.settings import Settings

# Longer than a planned hang by this much is the timeout of its attempt.
HANG_SECONDS = (0.8, 1.3)
# The longest delay that a step asks for, and the most attempts that a task fails before it ends.
LATER_SECONDS = (0.5, 1.8)
FAILURES_MAX = 3
# More attempts of a dead letter fail than it has, because losses and releases do not count.
SPARE_STEPS = 12
# How much a timeout, a requested delay and a number of attempts may exceed the workload's.
TIMEOUT_FACTOR = 1.25
RETRY_FACTOR = 1.5
LIMIT_SPREAD = 3
_OMITTED = 0.3
# What the API assumes where a request says nothing.
_DEFAULTS: tuple[tuple[str, Any], ...] = (("queue", "default"), ("priority", 0))
_ATTEMPTS = int(Settings.model_fields["max_attempts"].default)

Payload = dict[str, Any]
Step = dict[str, Any]


def differ(
    workload: Workload, key: str, effect: str, request: Payload, *, hangs: bool = False
) -> Payload:
    """Return the request of a task with drawn name, queue, priority, limits, payload and steps.

    ``hangs``: attempts of it hang, unless its steps are planned already.
    """
    draw = random.Random(f"differences {key}")
    request = dict(request)
    request["queue"] = draw.choice(workload.differences.queues)
    request["priority"] = draw.randrange(10)
    if request["name"] in DECLARATIONS:
        usual = request["name"] == f"chaos_{effect}"
        if usual:
            request["name"] = draw.choice(names_of(effect))
        payload = dict(request["payload"])
        request["payload"] = payload
        payload["steps"] = _varied(payload["steps"], draw)
        payload["filler"] = _filler(draw)
        _limit(workload, DECLARATIONS[request["name"]], request, draw)
        ends = draw.random() < workload.differences.ends
        if usual and (ends or hangs) and not payload["steps"]:
            _end(workload, effect, request, draw, hangs=hangs)
            payload["steps"] = _odd(payload["steps"], random.Random(f"odd {key}"))
        if _timeout(request) >= workload.timeout_seconds:
            payload["steps"] = _late(payload["steps"], random.Random(f"late failures {key}"))
            payload["steps"] = _unstorable(payload["steps"], random.Random(f"unstorable {key}"))
        request["payload"] = _shuffled(payload, draw)
    for name, default in _DEFAULTS:
        if request[name] == default and draw.random() < 0.5:
            del request[name]
    return _shuffled(request, draw)


def fraction(key: str) -> float:
    """Return the part of a due time below a millisecond, in the database's microseconds."""
    return random.Random(f"fraction {key}").randrange(1000) / 1e6


def rewritten(key: str, request: Payload) -> tuple[Payload, int | None]:
    """Return the same request, written differently where the API reads it as equal.

    The second value: minutes of offset with which its ``run_at`` is written; None: in UTC.
    """
    draw = random.Random(f"rewritten {key}")
    request = _shuffled(request, draw)
    request["payload"] = _shuffled(request["payload"], draw)
    for name, default in _DEFAULTS:
        if name not in request and draw.random() < 0.5:
            request[name] = default
        elif request.get(name) == default and draw.random() < 0.5:
            del request[name]
    for name in ("max_attempts", "timeout_seconds"):
        request.setdefault(name, None)
    seconds = request["timeout_seconds"]
    if isinstance(seconds, float) and seconds.is_integer():
        request["timeout_seconds"] = int(seconds)
    return request, draw.choice((None, -570, -60, 0, 345, 840))


def invalidated(key: str, request: Payload) -> Payload:
    """Return the request with one field outside of what the OpenAPI document allows."""
    field, value = random.Random(f"invalid {key}").choice(_INVALID)
    return request | {field: value}


def mismatched(key: str, effect: str, request: Payload) -> tuple[Payload, float]:
    """Return a request that differs in exactly one field.

    The second value: seconds to add to its due time, if ``run_at`` is that field; else 0.
    """
    draw = random.Random(f"mismatched {key}")
    other = dict(request)
    fields = ["payload", "run_at", "queue", "priority", "max_attempts", "timeout_seconds"]
    if request["name"] in DECLARATIONS:
        fields.append("name")
    match draw.choice(fields):
        case "name":
            names = [name for name in names_of(effect) if name != request["name"]]
            other["name"] = draw.choice(names)
        case "payload":
            other["payload"] = request["payload"] | {"number": -1}
        case "run_at":
            return other, draw.choice((0.000_001, 0.5, 60.0))
        case "queue":
            queue = other_queue(request.get("queue", "default"))
            other["queue"] = draw.choice((queue, UNKNOWN_QUEUE))
        case "priority":
            other["priority"] = (request.get("priority", 0) + draw.randint(1, 9)) % 10
        case "max_attempts":
            other["max_attempts"] = (request.get("max_attempts") or 0) + 1
        case _:
            seconds = request.get("timeout_seconds") or 1.0
            other["timeout_seconds"] = round(seconds + 0.25, 2)
    return other, 0.0


def _limit(
    workload: Workload, declared: Declaration, request: Payload, draw: random.Random
) -> None:
    """Draw limits that are at least the workload's; some are left to what the handler declares."""
    request["max_attempts"] = workload.max_attempts + draw.randint(0, LIMIT_SPREAD)
    longest = TIMEOUT_FACTOR * workload.timeout_seconds
    # Some are whole numbers, which can be written in two ways.
    digits = 2 if draw.random() < 0.7 else 0
    seconds = round(draw.uniform(workload.timeout_seconds, longest), digits)
    request["timeout_seconds"] = max(seconds, workload.timeout_seconds)
    if draw.random() < _OMITTED and (declared.max_attempts or _ATTEMPTS) >= workload.max_attempts:
        del request["max_attempts"]
    if draw.random() < _OMITTED and suits(workload, declared):
        del request["timeout_seconds"]


def _effective(request: Payload) -> int:
    """Return the number of attempts that a task may have, as sent or as declared."""
    declared = DECLARATIONS[request["name"]].max_attempts or _ATTEMPTS
    return int(request.get("max_attempts", declared))


def _timeout(request: Payload) -> float:
    """Return the timeout of a task's attempts, as sent or as declared."""
    declared = DECLARATIONS[request["name"]].timeout_seconds or 0.0
    return float(request.get("timeout_seconds", declared))


def suits(workload: Workload, declared: Declaration) -> bool:
    """Return whether tasks may be left to the declared timeout: it is at least the workload's."""
    return (declared.timeout_seconds or 0.0) >= workload.timeout_seconds


def _end(
    workload: Workload, effect: str, request: Payload, draw: random.Random, *, hangs: bool
) -> None:
    """Draw steps for a task that has none, with limits to match."""
    kinds = ["exhaust", "exhaust", "discard", "later", "return", "leave"]
    if hangs:
        # What follows a timeout must not depend on Postgres or the sink.
        kinds = ["exhaust", "hang", "swallow"] if effect == "ledger" else ["exhaust"]
    kind = draw.choice(kinds)
    payload = request["payload"]
    if hangs:
        request["timeout_seconds"] = _hang_timeout(payload, draw)
    if kind == "exhaust":
        payload["steps"] = _exhaust(effect, request, draw, hangs=hangs)
        return
    steps = [_failure(draw) for _ in range(draw.randrange(2))]
    match kind:
        case "later":
            steps.append(_later(draw))
        case "return":
            steps.append({"do": "return", "value": draw.choice(_VALUES)})
        case "hang":
            steps += [{"do": "hang"}] * draw.randint(1, 2)
        case _:
            steps.append({"do": kind})
    payload["steps"] = steps
    # Beside what is planned, as many attempts may fail as without it.
    least = workload.max_attempts + len(steps)
    if _effective(request) < least:
        request["max_attempts"] = least + draw.randint(0, LIMIT_SPREAD)


def _exhaust(effect: str, request: Payload, draw: random.Random, *, hangs: bool) -> list[Step]:
    """Return steps that use up all attempts; the limit is sent, or left to a brief handler."""
    attempts = request["max_attempts"] = draw.randint(1, FAILURES_MAX)
    brief = DECLARATIONS[f"chaos_{effect}_brief"]
    if draw.random() < 0.4 and brief.max_attempts is not None:
        request["name"], attempts = brief.name, brief.max_attempts
        del request["max_attempts"]
        if hangs and draw.random() < 0.5:
            del request["timeout_seconds"]
    steps = range(attempts + SPARE_STEPS)
    return [{"do": "hang"} if hangs else _failure(draw) for _ in steps]


def _odd(steps: list[Step], draw: random.Random) -> list[Step]:
    """Let most steps that return a value return nothing else, and mostly one that is falsy."""
    return [
        step
        if step["do"] != "return" or draw.random() < 0.3
        else {"do": "return", "value": draw.choice((*_FALSY, step["value"])), "whole": True}
        for step in steps
    ]


def _late(steps: list[Step], draw: random.Random) -> list[Step]:
    """Let half of the planned exceptions come after the effect, for which an attempt needs time."""
    return [
        {"do": "fail_late"} if step["do"] == "fail" and draw.random() < 0.5 else step
        for step in steps
    ]


def _unstorable(steps: list[Step], draw: random.Random) -> list[Step]:
    """Let a quarter of the late failures be results that cannot be stored."""
    return [
        {"do": "unstorable", "value": draw.choice(UNSTORABLE)}
        if step["do"] == "fail_late" and draw.random() < 0.25
        else step
        for step in steps
    ]


def _hang_timeout(payload: Payload, draw: random.Random) -> float:
    return float(round(payload["seconds"] + draw.uniform(*HANG_SECONDS), 2))


def _failure(draw: random.Random) -> Step:
    return _later(draw) if draw.random() < 0.3 else {"do": "fail"}


def _later(draw: random.Random) -> Step:
    return {"do": "retry", "after": round(draw.uniform(*LATER_SECONDS), 3)}


def _varied(steps: list[Step], draw: random.Random) -> list[Step]:
    """Let some planned failures take the declared back-off, others another delay."""
    return [
        {"do": "fail"}
        if step["do"] == "retry" and draw.random() < 0.4
        else step | {"after": round(step["after"] * draw.uniform(1.0, RETRY_FACTOR), 3)}
        if step["do"] == "retry"
        else step
        for step in steps
    ]


def _shuffled(fields: Payload, draw: random.Random) -> Payload:
    items = list(fields.items())
    draw.shuffle(items)
    return dict(items)


def _nested(draw: random.Random) -> Any:
    value: Any = draw.choice(_VALUES)
    for level in range(draw.randint(2, 40)):
        value = [value, level] if draw.random() < 0.5 else {f"level {level}": value}
    return value


_INVALID: tuple[tuple[str, Any], ...] = (
    ("name", ""),
    ("name", "two words"),
    ("payload", [1]),
    ("queue", ""),
    ("queue", "bulk/2"),
    ("priority", -1),
    ("priority", 10),
    ("priority", "high"),
    ("max_attempts", 0),
    ("timeout_seconds", 0),
    ("timeout_seconds", 604801),
)
# Results that a careless ``or`` takes for none.
_FALSY: tuple[Any, ...] = (0, 0.0, False, "", [], {})
# Values that a sloppy encoder, parser or comparison would change.
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    0.5,
    -1e-07,
    (1 << 63) + 1,
    -(1 << 63),
    0.1,
    123456.789012,
    "",
    "null",
    "é, e\u0301, ß, İ, 漢字, 🌊",
    '"\\/\b\f\n\r\t\x7f\u2028',
    [],
    {},
    [[], {}, [None]],
    {"": "", "é": 1, "É": 2, "e\u0301": 3, " ": {"a.b": [1, 1.5]}},
    {"b": 1, "a": 2, "B": 3, "aa": 4},
    "x" * 300,
)

_SHAPES: tuple[Callable[[random.Random], Any], ...] = (
    lambda draw: draw.choice(_VALUES),
    lambda draw: [draw.choice(_VALUES) for _ in range(draw.randint(2, 5))],
    lambda draw: round(draw.uniform(-1e6, 1e6), draw.randint(1, 9)),
    lambda draw: draw.randrange(-(1 << 63), 1 << 64),
    lambda draw: "".join(draw.choice("abcÄß漢🌊 ") for _ in range(draw.randint(1, 60))),
    _nested,
    lambda draw: {f"key {draw.randrange(99)}": draw.random() for _ in range(draw.randint(1, 6))},
)


def _filler(draw: random.Random) -> Any:
    """Return a value of any shape; one in a hundred is long."""
    if draw.random() < 0.01:
        return "long " * draw.randint(500, 2000)
    return draw.choice(_SHAPES)(draw)
