"""Compare the recorded operations of the clients with those that the workload plans.

The plan is generated again from the recorded scenario and seed. For each client and key:

* Its submits, repeats and items of batches, invalid ones among them, were all sent. Each unknown
  outcome and each answer that nothing was done is followed by one more submit, up to
  ``RESENDS_MAX``.
* A client does not send a mismatch or any operation about a task whose id it does not know. It
  certainly knows the id if its first submit of the key was planned earlier and answered with it, or
  if any of its submits was answered with it before the second of the operation. So at least these
  operations were sent, and at most those that are planned.

Lists are counted by client, without the pages that follow. Clients finish before a run goes on, so
each operation has a completion. Processes other than the clients are not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from chaos.checker.recorded_operations import alike, misread, some
from chaos.clients.client import RESENDS_MAX, is_repeated
from chaos.history.history import History, Operation
from chaos.scenario.scenario import Scenario
from chaos.scenario.workload import PlannedOperation, generate

_CERTAIN = frozenset({"submit", "repeat", "invalid"})


@dataclass(slots=True)
class _Exchange:
    """What one client did, and should have done, about one key."""

    planned: list[PlannedOperation] = field(default_factory=list)
    submits: list[Operation] = field(default_factory=list)
    others: list[Operation] = field(default_factory=list)

    def wrong(self) -> Iterator[str]:
        """Yield each kind of operation that was not sent as often as planned, with the numbers."""
        certain = [op for op in self.planned if op.kind in _CERTAIN]
        again = sum(is_repeated(each.type, each.value) for each in self.submits)
        counts: dict[str, int] = {"submit": len(self.submits) - min(again, RESENDS_MAX)}
        for operation in self.others:
            counts[operation.invoke.op] = counts.get(operation.invoke.op, 0) + 1
        least, most = {"submit": len(certain)}, {"submit": len(certain)}
        for op in self.planned:
            if op.kind in _CERTAIN:
                continue
            kind: str = "submit" if op.kind == "mismatch" else op.kind
            most[kind] = most.get(kind, 0) + 1
            least[kind] = least.get(kind, 0) + self._knows(op, certain)
        for kind in sorted({*counts, *most}):
            low, high, found = least.get(kind, 0), most.get(kind, 0), counts.get(kind, 0)
            if not low <= found <= high:
                wanted = str(low) if low == high else f"{low} to {high}"
                yield f"{kind} {found} times instead of {wanted}"

    def _knows(self, op: PlannedOperation, certain: list[PlannedOperation]) -> bool:
        """Return whether the client certainly knew what it needed when it came to ``op``."""
        if op.kind == "list":
            return True
        if not self.submits or not certain:
            return False
        if certain[0].at < op.at and _answered(self.submits[0]):
            return True
        return any(
            submit.completion.at < op.at
            for submit in self.submits
            if submit.completion is not None and _answered(submit)
        )


def operation_doubts(history: History, scenario: Scenario) -> Iterator[str]:
    """Yield a sentence for each way in which recorded and planned operations differ.

    ``history``: as the clients recorded it, because they act on malformed answers, too.
    """
    planned = generate(scenario.workload, history.run.seed)
    if not planned:
        return  # a workload without any operations: the history was not made by clients
    recorded = [
        operation
        for operation in history.operations.values()
        if operation.invoke.process.startswith("client-")
    ]
    invalid = {item.key for op in planned for item in op.items if item.kind == "invalid"}
    yield from alike(scenario.workload, recorded, invalid)
    yield from misread(history)
    unfinished = [op.invoke.op_id for op in recorded if op.completion is None]
    if unfinished:
        yield f"{len(unfinished)} operations have no completion: {some(unfinished)}"
    differing = [
        f"client-{client + 1} sent of {key or 'lists'}: {', '.join(wrong)}"
        for (client, key), exchange in sorted(_exchanges(planned, recorded).items())
        if (wrong := list(exchange.wrong()))
    ]
    if differing:
        yield f"the operations are not those that were planned: {some(differing, '; ')}"


def _exchanges(
    planned: Iterable[PlannedOperation], recorded: Iterable[Operation]
) -> dict[tuple[int, str], _Exchange]:
    exchanges: defaultdict[tuple[int, str], _Exchange] = defaultdict(_Exchange)
    for one in planned:
        for each in one.items or (one,):
            exchanges[each.client, each.key].planned.append(each)
    keys: dict[tuple[int, str], str] = {}
    for operation in recorded:
        client = int(operation.invoke.process.removeprefix("client-")) - 1
        value = operation.invoke.value
        if operation.invoke.op == "submit":
            exchanges[client, value["key"]].submits.append(operation)
            if _answered(operation):
                keys[client, operation.value["task_id"]] = value["key"]
        elif operation.invoke.op != "list":
            key = keys.get((client, value["task_id"]), value["task_id"])
            exchanges[client, key].others.append(operation)
        elif "cursor" not in value["query"]:
            exchanges[client, ""].others.append(operation)
    return exchanges


def _answered(submit: Operation) -> bool:
    return submit.type == "ok" and isinstance(submit.value.get("task_id"), str)
