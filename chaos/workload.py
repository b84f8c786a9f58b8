"""What clients will do, decided beforehand: a list of operations, pure and from the seed alone.

``plan(workload, seed)`` gives the same list in every process. Instants are seconds after the start
of the load. Every task has one client that submits, cancels and reads it; repeats of a submit may
come from any client, also at the same moment.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from chaos.load import EFFECTS, Workload

CLIENTS = 8
# A client gives up waiting after this long; what it asked for is then of unknown outcome.
CLIENT_TIMEOUT_SECONDS = 3.0

Kind = Literal["submit", "batch", "repeat", "mismatch", "cancel", "get", "list"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One operation that a client will invoke ``at`` a second, or as soon after as it can.

    ``key`` names the task it is about ("" for a list). ``request`` is the body of a submit, its
    ``run_at`` missing; ``run_after`` is its due time in seconds after the start, None for now.
    ``items``: the submits of a batch, all of the same client.
    """

    at: float
    client: int
    kind: Kind
    key: str = ""
    effect: str = ""
    run_after: float | None = None
    request: dict[str, Any] = field(default_factory=dict)
    items: tuple[Planned, ...] = ()


def plan(workload: Workload, seed: int) -> list[Planned]:
    """All operations of a run, in the order of their instants."""
    operations = list(_operations(workload, seed))
    operations += _missing(workload, seed, operations)
    operations = list(_kept(workload, seed, operations))
    if workload.batch > 1:
        operations = list(_in_batches(operations, workload.batch))
    return sorted(operations, key=lambda op: (op.at, op.key, op.kind, op.client))


def to_json(operations: list[Planned]) -> list[dict[str, Any]]:
    """The list as plain JSON values, for the process of the clients."""
    return [asdict(operation) for operation in operations]


def from_json(rows: list[dict[str, Any]]) -> list[Planned]:
    """Back from ``to_json``."""
    return [Planned(**row | {"items": tuple(from_json(row["items"]))}) for row in rows]


def _operations(workload: Workload, seed: int) -> Iterator[Planned]:
    draw = random.Random(f"workload {seed}")
    step = (workload.within or workload.seconds) / workload.tasks
    poison = set(random.Random(f"poison {seed}").sample(range(workload.tasks), workload.poison))
    reads = 0
    for number in range(workload.tasks):
        # Evenly, but not in lockstep: each submit falls somewhere in its own slot.
        submit = _submit(workload, seed, number, round(step * (number + draw.random()), 4), draw)
        if number in poison:
            submit.request["payload"] |= {"poison": True, "failures": 0}
            yield submit
            continue
        yield submit
        yield from _companions(workload, submit, draw)
        if draw.random() < workload.reads:
            at = submit.at + draw.uniform(0.0, 1.5)
            yield Planned(round(at, 4), submit.client, "get", submit.key)
            reads += 1
            if reads % 10 == 0:
                yield Planned(round(at, 4), draw.randrange(CLIENTS), "list")


def _key(seed: int, number: int) -> str:
    return f"s{seed}-{number:05d}"


def _submit(workload: Workload, seed: int, number: int, at: float, draw: random.Random) -> Planned:
    shares = workload.effects
    effect = draw.choices(EFFECTS, (shares.ledger, shares.sql, shares.external))[0]
    payload: dict[str, Any] = {
        "number": number,
        "seconds": round(draw.uniform(*workload.handler_seconds), 4),
        "failures": 0,
    }
    if draw.random() < workload.flaky.share:
        payload["failures"] = draw.randint(*workload.flaky.failures)
        payload["retry_seconds"] = workload.flaky.retry_seconds
    later = draw.random() < workload.later.share
    # Drawn in this order: whatever is added must not change the plans of the seeds there are.
    client = draw.randrange(CLIENTS)
    run_after = round(at + draw.uniform(*workload.later.seconds), 3) if later else None
    if workload.due_between is not None:
        run_after = round(draw.uniform(*workload.due_between), 3)
    name = f"chaos_{effect}"
    others = random.Random(f"handlers {seed} {number}")
    if workload.handlers and effect == "ledger" and others.random() < 1 / 3:
        name = others.choice(sorted(workload.handlers))
        payload = others.choice(workload.handlers[name])
    return Planned(
        at=at,
        client=client,
        kind="submit",
        key=_key(seed, number),
        effect=effect,
        run_after=run_after,
        request={
            "name": name,
            "payload": payload,
            "max_attempts": workload.max_attempts,
            "timeout_seconds": workload.timeout_seconds,
        },
    )


def _companions(workload: Workload, submit: Planned, draw: random.Random) -> Iterator[Planned]:
    """Repeats, mismatches and cancels that go with one submit."""

    def again(kind: Kind, after: float, client: int, request: dict[str, Any]) -> Planned:
        at = round(submit.at + after, 4)
        return Planned(at, client, kind, submit.key, submit.effect, submit.run_after, request)

    if draw.random() < workload.repeats:
        # Every third at the very moment of the first: who wins the key is the database's affair.
        after = 0.0 if draw.random() < 1 / 3 else draw.uniform(0.05, 2.0)
        yield again("repeat", after, draw.randrange(CLIENTS), submit.request)
    if draw.random() < workload.mismatches:
        other = submit.request | {"payload": submit.request["payload"] | {"number": -1}}
        yield again("mismatch", draw.uniform(0.05, 1.0), submit.client, other)
    if draw.random() < workload.cancels:
        # Around the time it is due: some before, some while it runs, some too late.
        due = (submit.run_after or submit.at) - submit.at
        after = due * draw.random() if draw.random() < 1 / 3 else due + draw.uniform(0.0, 0.5)
        yield again("cancel", after, submit.client, {})


def _missing(workload: Workload, seed: int, operations: list[Planned]) -> Iterator[Planned]:
    """One of each companion that is asked for and that the dice gave none of."""
    draw = random.Random(f"missing {seed}")
    there = {operation.kind for operation in operations}
    submits = [
        op for op in operations if op.kind == "submit" and "poison" not in op.request["payload"]
    ]
    none = {"repeats": 0.0, "mismatches": 0.0, "cancels": 0.0}
    for name, kind in (("repeats", "repeat"), ("mismatches", "mismatch"), ("cancels", "cancel")):
        if getattr(workload, name) and kind not in there and submits:
            just_it = workload.model_copy(update=none | {name: 1.0})
            yield from _companions(just_it, draw.choice(submits), draw)


def _kept(workload: Workload, seed: int, operations: list[Planned]) -> Iterator[Planned]:
    """After everything was drawn: what is left out changes nothing in what stays."""
    only = workload.only if workload.only is not None else range(workload.tasks)
    keys = {"", *(_key(seed, number) for number in only)}
    for operation in operations:
        if operation.key in keys and operation.kind not in workload.without:
            yield operation


def _in_batches(operations: list[Planned], size: int) -> Iterator[Planned]:
    """First submits of one client that follow each other go together, when the first one would."""
    for client in range(CLIENTS):
        mine = [op for op in operations if op.kind == "submit" and op.client == client]
        for start in range(0, len(mine), size):
            items = tuple(mine[start : start + size])
            yield Planned(items[0].at, client, "batch", items[0].key, items=items)
    yield from (operation for operation in operations if operation.kind != "submit")


def share(operations: list[Planned], client: int) -> list[Planned]:
    """The operations of one client, in order."""
    mine = [operation for operation in operations if operation.client == client]
    assert all(a.at <= b.at for a, b in pairwise(mine)), "plan() sorts by instant"  # noqa: S101
    return mine
