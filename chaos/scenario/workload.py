"""Generate the operations of the clients from the workload and the seed.

``generate`` is pure: it returns the same list in every process. Instants are seconds after the
start of the load. Every task has one client that submits, cancels and reads it; repeats of a submit
may come from any client, also at the same moment.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from chaos.scenario.differences import differ, fraction, invalidated, mismatched, rewritten
from chaos.scenario.operations import EFFECTS, Workload
from chaos.scenario.reads import late_actions, reads
from chaos.tasks.steps import does

CLIENTS = 8
# More than any max_losses: poison kills in each of its attempts.
POISON_STEPS = 32
# After this timeout the outcome of a request is unknown.
CLIENT_TIMEOUT_SECONDS = 3.0

Kind = Literal[
    "submit", "batch", "invalid", "repeat", "mismatch", "cancel", "retry", "get", "events", "list"
]


@dataclass(frozen=True, slots=True)
class PlannedOperation:
    """One operation that a client invokes at second ``at``, or as soon as possible after it.

    ``key`` names the task ("" for a list). ``request``: the body of a submit without ``run_at``, or
    the query of a list, which reads up to ``pages`` pages.
    ``run_after``: its due time in seconds after the start; None: immediately. ``offset_minutes``:
    write it with this offset; None: in UTC. ``items``: the submits of a batch, all of one client;
    an ``invalid`` one must be refused. ``api_key``: the name of the client's key; ``secrets``: its
    secrets, each with the second from which it is sent.
    """

    at: float
    client: int
    kind: Kind
    key: str = ""
    effect: str = ""
    run_after: float | None = None
    request: dict[str, Any] = field(default_factory=dict)
    items: tuple[PlannedOperation, ...] = ()
    pages: int = 1
    offset_minutes: int | None = None
    api_key: str | None = None
    secrets: tuple[tuple[float, str], ...] = ()

    def secret(self, now: float) -> tuple[int, str] | None:
        """Return the number, from 1, and the secret that is sent at this second, if any."""
        sent = [secret for since, secret in self.secrets if since <= max(now, 0.0)]
        return (len(sent), sent[-1]) if sent else None


def generate(workload: Workload, seed: int) -> list[PlannedOperation]:
    """Return all operations of a run, ordered by instant."""
    operations = list(_operations(workload, seed))
    operations += _missing(workload, seed, operations)
    operations = list(_kept(workload, seed, operations))
    if workload.batch > 1:
        operations = list(_in_batches(workload, seed, operations))
    if workload.api_keys:
        operations = list(_under_each_key(workload, operations))
    return sorted(operations, key=lambda op: (op.at, op.key, op.kind, op.client))


def to_json(operations: list[PlannedOperation]) -> list[dict[str, Any]]:
    """Convert the list to plain JSON values, for the process of the clients."""
    return [asdict(operation) for operation in operations]


def from_json(rows: list[dict[str, Any]]) -> list[PlannedOperation]:
    """Convert back from ``to_json``."""
    return [
        PlannedOperation(
            **row
            | {
                "items": tuple(from_json(row["items"])),
                "secrets": tuple((since, secret) for since, secret in row["secrets"]),
            }
        )
        for row in rows
    ]


def _operations(workload: Workload, seed: int) -> Iterator[PlannedOperation]:
    draw = random.Random(f"workload {seed}")
    step = (workload.within or workload.seconds) / workload.tasks
    poison = _sampled("poison", seed, workload.tasks, workload.poison)
    hangs = _sampled("hangs", seed, workload.tasks, workload.differences.hangs)
    gets = 0
    for number in range(workload.tasks):
        # Each submit falls at a random instant of its own slot, so clients do not run in lockstep.
        submit = _submit(workload, seed, number, round(step * (number + draw.random()), 4), draw)
        if number in poison:
            submit.request["payload"]["steps"] = [{"do": "kill"}] * POISON_STEPS
        if workload.differences.requests:
            submit = _differing(workload, submit, hangs=number in hangs)
        yield submit
        if number in poison:
            continue
        yield from _companions(workload, submit, draw)
        if draw.random() < workload.reads:
            at = submit.at + draw.uniform(0.0, 1.5)
            yield PlannedOperation(round(at, 4), submit.client, "get", submit.key)
            gets += 1
            if gets % 10 == 0:
                client, query = draw.randrange(CLIENTS), {"limit": 50}
                yield PlannedOperation(round(at, 4), client, "list", request=query)
        yield from _further(workload, seed, number, submit)


def _further(
    workload: Workload, seed: int, number: int, submit: PlannedOperation
) -> Iterator[PlannedOperation]:
    due = max(0.0, (submit.run_after or submit.at) - submit.at)
    left = workload.seconds - submit.at
    for read in (
        *reads(workload, seed, number, submit.request, due),
        *late_actions(workload, seed, number, submit.request, due, left),
    ):
        at, key = round(submit.at + read.after, 4), "" if read.kind == "list" else submit.key
        yield PlannedOperation(
            at, submit.client, read.kind, key, request=read.query, pages=read.pages
        )


def _key(workload: Workload, seed: int, number: int) -> str:
    """Return the key of a task; that of an odd number differs from its predecessor's in case."""
    if number % 2 and workload.differences.requests:
        return f"S{seed}-{number - 1:05d}"
    return f"s{seed}-{number:05d}"


def _sampled(what: str, seed: int, tasks: int, count: int) -> set[int]:
    """Return the numbers of ``count`` tasks, or of all if there are fewer."""
    return set(random.Random(f"{what} {seed}").sample(range(tasks), min(tasks, count)))


def _differing(workload: Workload, submit: PlannedOperation, *, hangs: bool) -> PlannedOperation:
    request = differ(workload, submit.key, submit.effect, submit.request, hangs=hangs)
    run_after = submit.run_after
    if run_after is not None:
        run_after = round(run_after + fraction(submit.key), 6)
    return replace(submit, request=request, run_after=run_after)


def _submit(
    workload: Workload, seed: int, number: int, at: float, draw: random.Random
) -> PlannedOperation:
    shares = workload.effects
    effect = draw.choices(EFFECTS, (shares.ledger, shares.sql, shares.external))[0]
    payload: dict[str, Any] = {
        "number": number,
        "seconds": round(draw.uniform(*workload.handler_seconds), 4),
        "steps": [],
    }
    if draw.random() < workload.flaky.share:
        step = {"do": "retry", "after": workload.flaky.retry_seconds}
        payload["steps"] = [step] * draw.randint(*workload.flaky.failures)
    later = draw.random() < workload.later.share
    # The order of the draws is fixed: additions must not change what existing seeds generate.
    client = draw.randrange(CLIENTS)
    run_after = round(at + draw.uniform(*workload.later.seconds), 3) if later else None
    if workload.due_between is not None:
        run_after = round(draw.uniform(*workload.due_between), 3)
    name = f"chaos_{effect}"
    others = random.Random(f"handlers {seed} {number}")
    if workload.handlers and effect == "ledger" and others.random() < 1 / 3:
        name = others.choice(sorted(workload.handlers))
        payload = others.choice(workload.handlers[name])
    return PlannedOperation(
        at=at,
        client=client,
        kind="submit",
        key=_key(workload, seed, number),
        effect=effect,
        run_after=run_after,
        request={
            "name": name,
            "payload": payload,
            "max_attempts": workload.max_attempts,
            "timeout_seconds": workload.timeout_seconds,
        },
    )


def _companions(
    workload: Workload, submit: PlannedOperation, draw: random.Random
) -> Iterator[PlannedOperation]:
    """Yield the repeats, mismatches and cancels that belong to one submit."""

    def again(kind: Kind, after: float, client: int) -> PlannedOperation:
        return replace(submit, kind=kind, at=round(submit.at + after, 4), client=client)

    if draw.random() < workload.repeats:
        # A third are concurrent with the first submit; the database decides which one wins.
        after = 0.0 if draw.random() < 1 / 3 else draw.uniform(0.05, 2.0)
        repeat = again("repeat", after, draw.randrange(CLIENTS))
        yield _rewritten(repeat) if workload.differences.requests else repeat
    if draw.random() < workload.mismatches:
        yield _mismatched(workload, again("mismatch", draw.uniform(0.05, 1.0), submit.client))
    if draw.random() < workload.cancels:
        # Around the due time: some before, some during the attempt, some too late.
        due = (submit.run_after or submit.at) - submit.at
        after = due * draw.random() if draw.random() < 1 / 3 else due + draw.uniform(0.0, 0.5)
        yield replace(again("cancel", after, submit.client), request={})


def _rewritten(repeat: PlannedOperation) -> PlannedOperation:
    request, offset = rewritten(repeat.key, repeat.request)
    if repeat.run_after is None:
        request["run_at"] = None
    return replace(repeat, request=request, offset_minutes=offset)


def _mismatched(workload: Workload, mismatch: PlannedOperation) -> PlannedOperation:
    request = mismatch.request
    if not workload.differences.requests:
        return replace(mismatch, request=request | {"payload": request["payload"] | {"number": -1}})
    request, later = mismatched(mismatch.key, mismatch.effect, request)
    if not later:
        return replace(mismatch, request=request)
    due = mismatch.at if mismatch.run_after is None else mismatch.run_after
    return replace(mismatch, run_after=round(due + later, 6))


def _missing(
    workload: Workload, seed: int, operations: list[PlannedOperation]
) -> Iterator[PlannedOperation]:
    """Yield one of each requested kind of companion that was never drawn."""
    draw = random.Random(f"missing {seed}")
    drawn = {operation.kind for operation in operations}
    submits = [
        op for op in operations if op.kind == "submit" and does(op.request["payload"], 1) != "kill"
    ]
    none = {"repeats": 0.0, "mismatches": 0.0, "cancels": 0.0}
    for name, kind in (("repeats", "repeat"), ("mismatches", "mismatch"), ("cancels", "cancel")):
        if getattr(workload, name) and kind not in drawn and submits:
            only_this = workload.model_copy(update=none | {name: 1.0})
            yield from _companions(only_this, draw.choice(submits), draw)


def _kept(
    workload: Workload, seed: int, operations: list[PlannedOperation]
) -> Iterator[PlannedOperation]:
    """Drop what the workload leaves out; it runs after all draws, so the rest is unchanged."""
    only = workload.only if workload.only is not None else range(workload.tasks)
    keys = {"", *(_key(workload, seed, number) for number in only)}
    for operation in operations:
        if operation.key in keys and operation.kind not in workload.without:
            yield operation


def _in_batches(
    workload: Workload, seed: int, operations: list[PlannedOperation]
) -> Iterator[PlannedOperation]:
    """Group consecutive first submits of each client, at the instant of the first one."""
    draw = random.Random(f"invalid {seed}")
    for client in range(CLIENTS):
        mine = [op for op in operations if op.kind == "submit" and op.client == client]
        for start in range(0, len(mine), workload.batch):
            items = mine[start : start + workload.batch]
            if draw.random() < workload.invalid:
                items.insert(draw.randint(0, len(items)), _invalid(draw.choice(items)))
            first = mine[start]
            yield PlannedOperation(first.at, client, "batch", first.key, items=tuple(items))
    yield from (operation for operation in operations if operation.kind != "submit")


def _invalid(submit: PlannedOperation) -> PlannedOperation:
    """Return the submit with one field that the API must refuse, under a key of its own."""
    request = invalidated(submit.key, submit.request)
    return replace(submit, kind="invalid", key=f"{submit.key}-invalid", request=request)


def _under_each_key(
    workload: Workload, operations: list[PlannedOperation]
) -> Iterator[PlannedOperation]:
    """Repeat all operations under each name of an API key, which has clients of its own."""
    clients = CLIENTS // len(workload.api_keys)
    for place, (name, secrets) in enumerate(workload.api_keys.items()):
        seconds = workload.seconds / len(secrets)
        since = tuple((round(n * seconds, 3), secret) for n, secret in enumerate(secrets))
        for planned in operations:
            client = place * clients + planned.client % clients
            own: dict[str, Any] = {"client": client, "api_key": name, "secrets": since}
            items = tuple(replace(item, **own) for item in planned.items)
            yield replace(planned, items=items, **own)


def share(operations: list[PlannedOperation], client: int) -> list[PlannedOperation]:
    """Return the operations of one client, in order."""
    mine = [operation for operation in operations if operation.client == client]
    assert all(a.at <= b.at for a, b in pairwise(mine)), "generate() sorts by instant"  # noqa: S101
    return mine
