"""The vocabulary of a history: one frozen class per ``kind`` of record, closed.

Two clocks: ``at: float`` is the arena's, in seconds since the start of the run; ``at: str`` is an
instant of the database, ISO 8601 with ``Z``. ``Run.database_epoch`` is the database's clock at
arena second 0; ``History.seconds`` converts. Safety is never judged across clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import orjson
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError


def parse_instant(text: str) -> datetime:
    """An instant of the database (ISO 8601, ``Z`` or an offset) as an aware datetime.

    Raises:
        ValueError: not ISO 8601, or without an offset.
    """
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no offset: write it with Z")
    return instant


def _check_instant(text: str) -> str:
    parse_instant(text)
    return text


class ArenaName(StrEnum):
    """Where a run happens."""

    LIVE = "live"
    SIMULATION = "simulation"
    COMPOSE = "compose"


Instant = Annotated[str, AfterValidator(_check_instant)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of the bound T: what it waits for, how long at most, and why."""

    name: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """T of L1 with its terms; ``seconds`` is their sum, or what the scenario says itself."""

    seconds: float
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """First line of each history. ``scenario`` is the whole scenario (``Scenario.document``).

    ``settings``: those that matter, as given to the processes (no secrets, no addresses).
    ``database_epoch``: the database's clock at arena second 0.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["run"] = "run"
    scenario: dict[str, Any]
    seed: int
    arena: ArenaName
    database_epoch: Instant
    bound: Bound
    settings: dict[str, Any]
    commit: str | None = None
    mutant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One half of a client operation: its ``invoke``, or its completion under the same op_id.

    ok: it happened. fail: it certainly did not. info: unknown (a timeout, a 5xx, a broken
    connection); an invoke without completion counts as info. ``value`` by ``op``:
      submit  invoke {key, name, payload, run_at, effect}; completion {task_id, status}.
              run_at: ISO instant asked for, or None (now). effect: ledger, sql or external.
              task_id: None where the answer named none. A repeat of a submit is an op of its own.
      cancel  invoke {task_id}; ok {answer: cancelled | requested | too_late}. A 409 is ok/too_late.
      get     invoke {task_id}; ok {state} (None: 404).
      retry   invoke {task_id}; ok {answer: retried | refused}.
      list    invoke {}; ok {task_ids}.
    A completion may repeat the keys of its invoke, and add ``status`` (HTTP) and ``error``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["op"] = "op"
    op: Literal["submit", "get", "cancel", "retry", "list"]
    type: Literal["invoke", "ok", "fail", "info"]
    op_id: str
    process: str
    at: float
    value: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """Tasks not terminal (``open``), and those of them RUNNING, counted in the database."""

    open: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One strike of a planned fault as it really took hold.

    ``fault_id`` is ``<name in the scenario>#<n>``, n from 1 (``FaultSpec.fault_ids``). A strike
    has one ``start`` (with ``in_flight``), one ``felt`` once something other than the harness's own
    intention showed it (``evidence`` says what: bytes held, latency measured, exit status, ...),
    and one ``end`` where it ended. ``targets`` are the edges, processes or servers really hit.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["fault"] = "fault"
    type: Literal["start", "felt", "end"]
    fault_id: str
    fault: str
    targets: tuple[str, ...]
    at: float
    in_flight: InFlight | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """faults: load and faults begin. healed: all faults are off, every process is up and the load
    is over. drained: the final reads below were made (whether or not all tasks were terminal).
    ``core``: the processes that were healed; any other was killed at the heal and stays dead.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["phase"] = "phase"
    phase: Literal["faults", "healed", "drained"]
    at: float
    core: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of ``task_events``; ``reason`` is a value of ``system.lifecycle.Reason``."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["event"] = "event"
    task_id: str
    seq: int
    at: Instant
    from_state: str | None
    to_state: str
    epoch: int
    attempt: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A row of the ledger."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["effect"] = "effect"
    effect_key: str
    task_id: str
    epoch: int
    attempt: int
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A row of ``tasks`` in the final read. ``key`` is its idempotency key."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["task"] = "task"
    task_id: str
    key: str | None
    name: str
    payload: dict[str, Any]
    run_at: Instant
    state: str
    epoch: int
    seq: int
    attempt: int
    losses: int
    handed_back: int
    max_attempts: int
    max_losses: int
    created_at: Instant
    finished_at: Instant | None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleWrite:
    """A row of ``stale_writes``: what the fence refused."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["stale_write"] = "stale_write"
    task_id: str
    at: Instant
    worker_id: str
    epoch: int
    outcome: str
    state_found: str | None
    epoch_found: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A row of ``workers``: one incarnation of the actor ``label``."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["worker"] = "worker"
    worker_id: str
    label: str
    started_at: Instant
    dead_at: Instant | None = None
    dead_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCall:
    """A physical call as the sink saw it, by its own clock; ``applied`` False: deduplicated."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["sink"] = "sink"
    at: float
    key: str
    task_id: str
    epoch: int
    applied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlEffect:
    """A business row that a handler wrote in ``ctx.transaction()``."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["sql_effect"] = "sql_effect"
    task_id: str
    epoch: int
    attempt: int
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Sometimes:
    """Something the arena itself saw (or did not) that no other witness records."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["sometimes"] = "sometimes"
    name: str
    held: bool
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A process of the system ended: ``code`` is negative for a signal, ``planned`` when the
    harness meant it (a process that was told to kill itself was not).
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["exit"] = "exit"
    actor: str
    pid: int
    code: int
    at: float
    planned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    """Another span that a span points to; ids in hex, as everywhere."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEvent:
    """An instant within a span."""

    name: str
    at: float
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as the collector received it, or one of the harness's own (service
    ``holdfast-chaos``). ``start`` and ``end`` are by the wall clock of the process that made it, on
    the arena's scale: of a skewed process they are wrong. ``role``: OpenTelemetry's kind of span.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    kind: Literal["span"] = "span"
    name: str
    role: Literal["internal", "server", "client", "producer", "consumer"]
    trace_id: str
    span_id: str
    parent_span_id: str | None
    service: str
    instance: str
    start: float
    end: float
    status: Literal["unset", "ok", "error"]
    attributes: dict[str, Any] = field(default_factory=dict)
    links: tuple[SpanLink, ...] = ()
    events: tuple[SpanEvent, ...] = ()


Record: TypeAlias = (
    Run
    | Op
    | Fault
    | Phase
    | Event
    | Effect
    | Task
    | StaleWrite
    | Worker
    | SinkCall
    | SqlEffect
    | Sometimes
    | Exit
    | Span
)
_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def encode(record: Record) -> bytes:
    """One line of a history, newline included."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes | str) -> Record:
    """The record of one line.

    Raises:
        ValueError: not JSON, an unknown kind, or a field missing, unknown or of a wrong type.
    """
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place + ': ' if place else ''}{first['msg']}") from None
