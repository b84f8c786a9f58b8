"""Draw what happened to one task as a Mermaid sequence diagram."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checker.invariants.violation import Violation
from chaos.history import records
from chaos.history.history import History
from chaos.history.records import Fault, Op, Record
from chaos.report.story import Stories
from chaos.report.words import instant_of

_ORDER = ("client", "api", "scheduler", "postgres", "redis", "worker", "sink")


def mermaid(history: History, violation: Violation) -> str:
    """Return the text of a diagram; for a violation without a task, of the faults."""
    return "\n".join(_Diagram(history, violation).lines())


class _Diagram:
    def __init__(self, history: History, violation: Violation) -> None:
        self._history = history
        self._violation = violation
        self._owners = {
            (event.task_id, event.epoch): self._actor(event.actor)
            for events in history.events.values()
            for event in events
            if event.reason == "claimed"
        }
        self._seen: dict[str, None] = {}

    def lines(self) -> Iterator[str]:
        timed = sorted(self._records(), key=lambda each: each[0])
        body = [line for at, record in timed for line in self._of(at, record)]
        law, message = self._violation.invariant, self._violation.message
        names = sorted(self._seen, key=_place)
        yield "sequenceDiagram"
        for name in names:
            yield f"    participant {_id(name)} as {name}"
        yield from body
        if names:
            yield f"    Note over {_ends(names)}: {_text(f'{law} violated: {message}')}"

    # ------------------------------------------------------------------ records

    def _records(self) -> Iterator[tuple[float, Record]]:
        history, task_id = self._history, self._violation.task_id or ""
        mine: list[Record] = [
            *history.events.get(task_id, ()),
            *history.effects.get(task_id, ()),
            *history.sql_effects.get(task_id, ()),
            *history.stale_writes.get(task_id, ()),
            *(call for calls in history.sink_calls.values() for call in calls),
        ]
        mine = [record for record in mine if getattr(record, "task_id", "") == task_id]
        for operation in Stories(history).operations(task_id):
            mine += [half for half in (operation.invoke, operation.completion) if half]
        timed = [(at, record) for record in mine if (at := instant_of(history, record)) is not None]
        first = min((at for at, _ in timed), default=0.0)
        last = max((at for at, _ in timed), default=history.phases.get("healed", 0.0))
        yield from timed
        for fault in history.faults.values():
            yield from ((f.at, f) for f in fault if f.type != "felt" and first <= f.at <= last)
        owners = {self._actor(e.actor) for e in history.events.get(task_id, ())}
        for worker in history.workers.values():
            if worker.dead_at and worker.dead_reason != "stopped" and worker.label in owners:
                at = history.seconds(worker.dead_at)
                if first <= at <= last:
                    yield at, worker

    # ------------------------------------------------------------------ Mermaid

    def _of(self, at: float, record: Record) -> Iterator[str]:
        when = f"{at:.3f} s"
        match record:
            case Op():
                yield from self._operation(when, record)
            case records.Event():
                change = f"{record.from_state or '-'} to {record.to_state}"
                reason = records.reason_text(record.reason)
                what = f"{when} {reason}: {change}, epoch {record.epoch}"
                yield self._arrow(self._actor(record.actor), "->>", "postgres", what)
            case records.StaleWrite():
                outcome = records.reason_text(record.outcome)
                what = f"{when} {outcome} under epoch {record.epoch} REFUSED"
                what += f", found {record.state_found} under epoch {record.epoch_found}"
                yield self._arrow(self._actor(f"worker:{record.worker_id}"), "-x", "postgres", what)
            case records.Effect() | records.SqlEffect():
                kind = "ledger row" if isinstance(record, records.Effect) else "business row"
                yield self._note(["postgres"], f"{when} {kind}: epoch {record.epoch}")
            case records.SinkCall():
                who = self._owners.get((record.task_id, record.epoch), "worker")
                how = "applied" if record.applied else "suppressed as a duplicate"
                yield self._arrow(who, "->>", "sink", f"{when} call: epoch {record.epoch}, {how}")
            case records.Worker():
                yield self._note([record.label], f"{when} marked dead: {record.dead_reason}")
            case Fault():
                how = "begins" if record.type == "start" else "ends"
                ends = [end for target in record.targets for end in target.split("->")]
                what = f"{when} {record.fault} {how} ({', '.join(record.targets)})"
                yield self._note(list(dict.fromkeys(ends)), what)
            case _:
                pass

    def _operation(self, when: str, half: Op) -> Iterator[str]:
        api = self._api(half)
        if half.type == "invoke":
            yield self._arrow("client", "->>", api, f"{when} {half.op}")
            return
        names = ("status", "answer", "state", "error")
        answer = ", ".join(str(half.value[n]) for n in names if half.value.get(n) is not None)
        yield self._arrow(api, "-->>", "client", f"{when} {half.op} is {half.type} {answer}")

    def _api(self, half: Op) -> str:
        """Return the API that handled the task, if an event names one."""
        events = self._history.events.get(self._violation.task_id or "", ())
        names = [event.actor.partition(":")[2] for event in events if event.actor[:4] == "api:"]
        return names[0] if names else "api"

    def _actor(self, actor: str) -> str:
        role, _, who = actor.partition(":")
        worker = self._history.workers.get(who) if role == "worker" else None
        return worker.label if worker else who or actor

    def _arrow(self, sender: str, arrow: str, receiver: str, what: str) -> str:
        self._seen |= dict.fromkeys((sender, receiver))
        return f"    {_id(sender)}{arrow}{_id(receiver)}: {_text(what)}"

    def _note(self, over: list[str], what: str) -> str:
        self._seen |= dict.fromkeys(over)
        return f"    Note over {_ends(over)}: {_text(what)}"


def _place(name: str) -> tuple[int, str]:
    """Return the sort key of a participant: left to right along a task's path."""
    role = name.partition("-")[0]
    return (_ORDER.index(role) if role in _ORDER else len(_ORDER), name)


def _ends(names: list[str]) -> str:
    """Return the participants that a note spans: one, or the first and the last."""
    return _id(names[0]) if len(names) == 1 else f"{_id(names[0])},{_id(names[-1])}"


def _id(name: str) -> str:
    """Return an identifier; Mermaid parses a hyphen as the start of an arrow."""
    return name.replace("-", "_")


def _text(what: str) -> str:
    """Escape text: Mermaid ends statements at semicolons and reads a hash as an entity."""
    return " ".join(what.split()).replace(";", ",").replace("#", "#35;")
