"""The checker's checker: every legal execution is judged true, and any one corruption false.

Executions are random walks through the lifecycle; a corruption changes one record of them, and
must be reported as a violation of the right invariant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from generated_histories import executions
from hypothesis import given
from hypothesis import strategies as st
from life import instant
from specimen import Specimen

from chaos.checker.invariants.registry import INVARIANTS
from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import (
    Effect,
    Event,
    Op,
    Record,
    SinkCall,
    SqlEffect,
    TaskRow,
    Worker,
    decode,
    encode,
    parse_instant,
)
from examples import examples
from holdfast.model.lifecycle import TERMINAL, Reason, State


@given(executions())
@examples(100)
def test_legal_executions_are_true(run: Specimen) -> None:
    judgement = judge(run.history())
    assert (judgement.verdict, judgement.violations, judgement.doubts) == ("true", (), ())


@given(executions())
@examples(60)
def test_s15_and_s16_name_exactly_the_affected_tasks(run: Specimen) -> None:
    history = run.history()
    # Attempts that time out do so because their handlers were told to hang.
    wasted = Counter(violation.task_id for violation in INVARIANTS["S16"](history))
    assert wasted == {life.task_id: life.losses for life in run.lives if life.losses}
    wrong = {
        life.task_id
        for life in run.lives
        if life.state is State.FAILED and life.losses >= life.max_losses and not life.poison
    }
    assert {violation.task_id for violation in INVARIANTS["S15"](history)} == wrong


@given(executions())
@examples(30)
def test_records_survive_a_round_trip_through_the_file(run: Specimen) -> None:
    records = run.all_records()
    assert [decode(encode(record)) for record in records] == records


@dataclass(frozen=True)
class Corruption:
    """One change: the records it applies to, the new record, and the invariant that must fail.

    ``becomes`` None: dropped. ``doubled``: a second one like it is added.
    """

    law: str
    applies: Callable[[Record], bool]
    becomes: Callable[[Record], Record] | None = None
    doubled: bool = False

    def planted(self, records: list[Record], victim: int) -> Iterator[Record]:
        for place, record in enumerate(records):
            if place != victim:
                yield record
            elif self.doubled:
                yield from (record, record)
            elif self.becomes is not None:
                yield self.becomes(record)


def _event(*reasons: Reason) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, Event) and r.reason in reasons


def _kind(kind: type[Record]) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, kind)


def _applied(record: Record) -> bool:
    return isinstance(record, SinkCall) and record.applied


def _row(*states: State) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, TaskRow) and r.state in states


def _cancelled_answer(record: Record) -> bool:
    return isinstance(record, Op) and record.value.get("answer") in {"cancelled", "requested"}


def _found(record: Record) -> bool:
    return (
        isinstance(record, Op)
        and (record.op, record.type) == ("get", "ok")
        and record.value.get("state") in {*TERMINAL}
    )


def _refused_409(record: Record) -> bool:
    return isinstance(record, Op) and record.value.get("answer") in {"too_late", "refused"}


def _repeated(record: Record) -> bool:
    return isinstance(record, Op) and (record.op, record.value.get("status")) == ("submit", 200)


def _shown(*ops: str) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, Op) and r.op in ops and r.value.get("task") is not None


def _with_answer(**fields: object) -> Callable[[Record], Record]:
    def answered(record: Record) -> Record:
        assert isinstance(record, Op)
        return replace(record, value=record.value | fields)

    return answered


def _with_task(**fields: object) -> Callable[[Record], Record]:
    def shown(record: Record) -> Record:
        assert isinstance(record, Op)
        return replace(record, value=record.value | {"task": record.value["task"] | fields})

    return shown


def _answered(op: str) -> Callable[[Record], bool]:
    return lambda r: isinstance(r, Op) and (r.op, r.type) == (op, "ok")


def _first_dropped(record: Record) -> Record:
    assert isinstance(record, Op)
    values = {key: shown[1:] for key, shown in record.value.items() if isinstance(shown, list)}
    return replace(record, value=record.value | values)


def _with(**fields: object) -> Callable[[Record], Record]:
    return lambda r: replace(r, **fields)  # type: ignore[arg-type]


def _with_result(**fields: object) -> Callable[[Record], Record]:
    def changed(record: Record) -> Record:
        assert isinstance(record, Effect)
        return replace(record, result=record.result | fields)

    return changed


def _with_seen(**fields: object) -> Callable[[Record], Record]:
    def changed(record: Record) -> Record:
        if isinstance(record, SqlEffect | SinkCall):
            return replace(record, seen=(record.seen or {}) | fields)
        assert isinstance(record, Effect)
        return replace(record, result=record.result | {"seen": record.result["seen"] | fields})

    return changed


def _dead_worker(record: Record) -> bool:
    return isinstance(record, Worker) and record.dead_at is not None


def _epoch_moved(by: int) -> Callable[[Record], Record]:
    def moved(record: Record) -> Record:
        assert isinstance(record, Event | Effect)
        return replace(record, epoch=record.epoch + by)

    return moved


def _moved(seconds: float) -> Callable[[Record], Record]:
    def moved(record: Record) -> Record:
        assert isinstance(record, Event)
        at = parse_instant(record.at) + timedelta(seconds=seconds)
        return replace(record, at=at.isoformat())

    return moved


ALL = tuple(Reason)
OVERTAKEN_SECONDS = 60.0
CORRUPTIONS = {
    "an effect is dropped": Corruption("S11", _kind(Effect)),
    "a business row is dropped": Corruption("S11", _kind(SqlEffect)),
    "an effect is doubled": Corruption("S1", _kind(Effect), doubled=True),
    "a business row is doubled": Corruption("S1", _kind(SqlEffect), doubled=True),
    "a call is applied twice": Corruption("S1", _applied, doubled=True),
    "an effect has another key": Corruption("S1", _kind(Effect), _with(effect_key="other")),
    "an effect has another epoch": Corruption("S8", _kind(Effect), _epoch_moved(-2)),
    "an effect has another task": Corruption("S2", _kind(Effect), _with(task_id="other")),
    "a claim comes early": Corruption("S3", _event(Reason.CLAIMED), _with(at=instant(0.0))),
    "a cancelled task runs": Corruption(
        "S4", _row(State.SUCCEEDED), _with(state="CANCELLED", finished_at=instant(1.0))
    ),
    "a cancel is answered wrongly": Corruption(
        "S4", _cancelled_answer, _with_answer(answer="unheard of", state="CANCELLED")
    ),
    "a row is dropped": Corruption("S6", _kind(TaskRow)),
    "an event is dropped": Corruption("S6", _event(*ALL)),
    "an event is doubled": Corruption("S6", _event(*ALL), doubled=True),
    "an event leads elsewhere": Corruption("S6", _event(*ALL), _with(to_state="ARCHIVED")),
    "an event has another reason": Corruption(
        "S6", _event(Reason.DISPATCHED, Reason.CLAIMED), _with(reason=Reason.SUCCEEDED)
    ),
    "an attempt is not counted": Corruption("S7", _event(Reason.CLAIMED), _with(attempt=0)),
    "a loss is not counted": Corruption("S7", _event(Reason.LOST), _with(reason=Reason.FAILED)),
    "a row counts another attempt": Corruption("S7", _kind(TaskRow), _with(attempt=99)),
    "an epoch goes up too far": Corruption("S8", _event(*ALL), _epoch_moved(2)),
    "an epoch does not go up": Corruption(
        "S8", _event(Reason.CLAIMED, Reason.LOST, Reason.SUCCEEDED), _epoch_moved(-1)
    ),
    "another worker finishes": Corruption(
        "S9", _event(Reason.SUCCEEDED), _with(actor="worker:other")
    ),
    "a claim is by an unknown worker": Corruption(
        "S9", _event(Reason.CLAIMED), _with(actor="worker:unknown")
    ),
    "a repeat names another task": Corruption("S10", _repeated, _with_answer(task_id="other")),
    "another request is stored": Corruption("S18", _kind(TaskRow), _with(payload={"key": "other"})),
    "another priority is stored": Corruption("S18", _kind(TaskRow), _with(priority=9)),
    "more attempts are stored": Corruption("S18", _kind(TaskRow), _with(max_attempts=99)),
    "a result is another task's": Corruption("S19", _kind(Effect), _with_result(number=99)),
    "a result is of another payload": Corruption("S19", _kind(Effect), _with_seen(payload="0")),
    "a call is of another attempt": Corruption("S19", _kind(SinkCall), _with_seen(attempt=99)),
    "a business row is of a longer attempt": Corruption(
        "S19", _kind(SqlEffect), _with_seen(seconds=99.0)
    ),
    "an attempt is lost by a living worker": Corruption("S20", _dead_worker, _with(dead_at=None)),
    "an attempt is lost by a worker that stopped": Corruption(
        "S20", _dead_worker, _with(dead_reason="stopped")
    ),
    "a success was told to fail": Corruption(
        "S20", _event(Reason.SUCCEEDED), _with(reason=Reason.DISCARDED)
    ),
    "a due time is too late": Corruption("S21", _kind(TaskRow), _with(due_at=instant(99.0))),
    "a dispatch is too early": Corruption("S21", _event(Reason.DISPATCHED), _with(at=instant(0.0))),
    "a task is not found": Corruption("S12", _found, _with(value={"state": None})),
    "an answer shows another state": Corruption(
        "S22", _shown("get", "cancel", "retry", "submit"), _with_task(state="ARCHIVED")
    ),
    "an answer shows other attempts": Corruption("S22", _shown("get"), _with_task(attempts=None)),
    "an answer shows another result": Corruption("S22", _shown("get"), _with_task(result=1)),
    "an answer shows another epoch": Corruption("S22", _shown("get"), _with_task(epoch=99)),
    "an answer omits an event": Corruption("S22", _answered("events"), _first_dropped),
    "a listing omits a task": Corruption("S23", _answered("list"), _first_dropped),
    "a refusal names another state": Corruption(
        "S24", _refused_409, _with(value={"answer": "refused", "state": "ARCHIVED"})
    ),
    "a request fails without saying what became of it": Corruption(
        "S24", _shown("get", "submit"), _with(type="info", value={"status": 500})
    ),
    "a task is dispatched before one that outranks it": Corruption(
        "S25",
        lambda r: isinstance(r, Event) and r.actor == "scheduler:scheduler-3",
        _moved(-OVERTAKEN_SECONDS),
    ),
    "a task never ends": Corruption("L1", _row(*TERMINAL), _with(state="QUEUED", finished_at=None)),
}
# An unknown submit promises nothing, so these are detectable only for accepted tasks.
PROMISED = {"another request is stored", "a task is not found"}


def _task_id(record: Record) -> object:
    return record.value.get("task_id") if isinstance(record, Op) else getattr(record, "task_id", 0)


def _one_of_each(run: Specimen) -> None:
    """Return a history with a record for every corruption."""
    run.submit("sql", effect="sql").dispatch().claim().succeed().submit_again().read()
    life = run.submit("external", effect="external").dispatch().claim().end(Reason.LOST)
    life.dispatch().claim("worker-2").succeed().stale_finish("worker-1", 1)
    best, second = run.submit("best", priority=8), run.submit("second", priority=1)
    run.now += 2 * OVERTAKEN_SECONDS
    best.dispatch().claim().succeed()
    second.dispatch("scheduler-3").claim().succeed()
    run.submit("cancelled").cancel().cancel().retry().read_events()
    run.walk(100)


@pytest.mark.parametrize("name", CORRUPTIONS)
@given(data=st.data(), run=executions())
@examples(20)
def test_any_one_corruption_is_false(name: str, data: st.DataObject, run: Specimen) -> None:
    _one_of_each(run)
    corruption, records = CORRUPTIONS[name], run.all_records()
    promised = {
        record.value["task_id"]
        for record in records
        if isinstance(record, Op) and (record.op, record.type) == ("submit", "ok")
    }
    victims = [
        place
        for place, record in enumerate(records)
        if corruption.applies(record) and (name not in PROMISED or _task_id(record) in promised)
    ]
    victim = data.draw(st.sampled_from(victims))
    judgement = judge(History(corruption.planted(records, victim)))
    assert judgement.verdict == "false"
    assert corruption.law in {violation.invariant for violation in judgement.violations}
