"""Defines the records of a history: one frozen class per ``kind``, a closed set.

There are two clocks. ``at: float`` is the arena's, in seconds since the start of the run; ``at:
str`` is an instant of the database, ISO 8601 with ``Z``. ``Run.database_epoch`` is the database's
clock at arena second 0; ``History.seconds`` converts. Safety is never judged across clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import orjson
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from chaos.history.conditions import Condition
from chaos.history.rest import HintsAtRest, Scrape
from chaos.history.spans import STRICT, Span
from holdfast.model.lifecycle import Backoff, Reason
from holdfast.model.task import DEFAULT_NAMESPACE


def parse_instant(text: str) -> datetime:
    """Parse an instant of the database (ISO 8601, ``Z`` or an offset) as an aware datetime.

    Raises:
        ValueError: the text is not ISO 8601 or has no offset.
    """
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no offset: write it with Z")
    return instant


def _check_instant(text: str) -> str:
    parse_instant(text)
    return text


def reason_text(reason: str) -> str:
    """Return a reason in words; one that the lifecycle does not know (S6 reports it) unchanged."""
    return Reason(reason).text if reason in {*Reason} else reason


class ArenaName(StrEnum):
    """Where a run happens."""

    LIVE = "live"
    SIMULATION = "simulation"
    COMPOSE = "compose"


Instant = Annotated[str, AfterValidator(_check_instant)]
# A namespace and an idempotency key in it: equal keys in different namespaces are different keys.
Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of the bound T: a name, its seconds, and why it is needed."""

    name: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """T of L1 with its terms; ``seconds`` is their sum, or the scenario's own number."""

    seconds: float
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The first line of each history; ``scenario`` is the whole ``Scenario.document``.

    ``settings``: the relevant ones, as given to the processes (no secrets, no addresses).
    ``database_epoch``: the database's clock at arena second 0. ``backoff``: the longest one of
    handlers besides the workload's own, without which ``bound`` cannot be computed again.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["run"] = "run"
    scenario: dict[str, Any]
    seed: int
    arena: ArenaName
    database_epoch: Instant
    bound: Bound
    settings: dict[str, Any]
    backoff: Backoff | None = None
    commit: str | None = None
    mutant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One half of a client operation: its ``invoke``, or its completion under the same op_id.

    ok: it happened. fail: it certainly did not happen. info: unknown (a timeout, a broken
    connection, a response that says so); an invoke without completion counts as info. ``value``
    by ``op``; ``task``, ``tasks`` and ``events`` are as in the response, unchanged:
      submit  invoke {key, effect, and the body as sent: name, payload, run_at, queue, priority,
              max_attempts, timeout_seconds}; ok {task_id, task}; fail {task_id}.
              run_at: requested ISO instant, or None (now); other fields that were not sent are
              missing. effect: ledger, sql or external. task_id of a refusal: the task that it
              names, or None. A repeated submit is a separate operation. An item of a batch has
              its index, in the answer the index that this names. If an API key was sent:
              key_namespace, its name; secret, the number of its secret, from 1.
      cancel  invoke {task_id}; ok {answer: cancelled | requested | too_late | done, task, state}.
              A 409 is ok/too_late with the state it names; done: done, but not read.
      get     invoke {task_id}; ok {state, task} (state None: 404).
      retry   invoke {task_id}; ok {answer: retried | refused | done, task, state}, as for cancel.
      events  invoke {task_id}; ok {events} (None: 404).
      list    invoke {query}; ok {tasks, next_cursor}; ``query``: the parameters as sent.
    A completion may repeat keys of its invoke and add ``status`` (HTTP), ``error``, ``problem``
    (the last part of the problem's type) and ``pointers`` (to the fields of the body that are at
    fault; of an item of a batch relative to the item, if they point into it).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["op"] = "op"
    op: Literal["submit", "get", "events", "cancel", "retry", "list"]
    type: Literal["invoke", "ok", "fail", "info"]
    op_id: str
    process: str
    at: float
    value: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """The number of tasks that are not terminal (``open``), and of those in RUNNING."""

    open: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One step of the injection of a planned fault, as it really happened.

    ``fault_id`` is ``<name in the scenario>#<n>``, n from 1 (``FaultSpec.fault_ids``). An
    injection has one ``start`` (with ``in_flight``), one ``felt`` once it was observed by something
    other than the harness's intention (``evidence``: bytes held, latency measured, exit status,
    ...: ``chaos.checker.evidence``), and one ``end`` if it ended, with how long it was held in each
    target. ``targets`` are the edges, processes or servers really hit.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["fault"] = "fault"
    type: Literal["start", "felt", "end"]
    fault_id: str
    fault: str
    targets: tuple[str, ...]
    at: float
    in_flight: InFlight | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    held_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStart:
    """The beginning of a phase of the run.

    faults: load and faults begin. healing: both are over, the heal begins. healed: all faults are
    off and every process is up. quiet: every task was terminal; reads through the API follow.
    drained: the final reads were made (whether or not all tasks were terminal). ``core``: the
    processes that were healed; all others were killed at the heal and stay dead.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["phase"] = "phase"
    phase: Literal["faults", "healing", "healed", "quiet", "drained"]
    at: float
    core: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of ``task_events``; ``reason`` is a value of ``holdfast.model.lifecycle.Reason``.

    ``detail``: what an end says about itself: ``{"error": {"type", "message", "traceback"}}``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
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
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A row of the ledger of effects; ``result``: what the handler returned."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["effect"] = "effect"
    effect_key: str
    task_id: str
    epoch: int
    attempt: int
    at: Instant
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A row of ``tasks`` in the final read. ``key`` is its idempotency key in ``key_namespace``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["task"] = "task"
    task_id: str
    key: str | None
    key_namespace: str = DEFAULT_NAMESPACE
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
    due_at: Instant
    queue: str = "default"
    priority: int = 0
    timeout_seconds: float
    cancel_requested: bool = False
    traceparent: str | None = None

    @property
    def full_key(self) -> Key | None:
        """The namespace and the key in it; None without a key."""
        return None if self.key is None else (self.key_namespace, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleWrite:
    """A row of ``stale_writes``: a write that the fence refused."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
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
    """A row of ``workers``: one incarnation of the actor ``label``, with its last lease."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["worker"] = "worker"
    worker_id: str
    label: str
    started_at: Instant
    lease_expires_at: Instant
    dead_at: Instant | None = None
    dead_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCall:
    """A physical call received by the sink; ``applied`` is False if it was a duplicate.

    ``seen``: what the calling attempt saw (``chaos.tasks.attempt``).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["sink"] = "sink"
    at: float
    key: str
    task_id: str
    epoch: int
    applied: bool
    seen: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlEffect:
    """A business row that a handler wrote in ``ctx.transaction()``.

    ``seen``: what its attempt saw (``chaos.tasks.attempt``).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["sql_effect"] = "sql_effect"
    task_id: str
    epoch: int
    attempt: int
    at: Instant
    seen: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sometimes:
    """Whether the arena observed an occurrence that no other record shows."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["sometimes"] = "sometimes"
    name: str
    held: bool
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unready:
    """A role that did not become ready in virtual time though no fault disturbed it.

    ``starts``: how often its process was started again meanwhile. ``log``: its last lines. The run
    ends there.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["unready"] = "unready"
    actor: str
    at: float
    starts: int
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """The exit of a process of the system; ``code`` is negative for a signal.

    ``planned``: the harness intended it (a process killed by its own handler is not planned).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["exit"] = "exit"
    actor: str
    pid: int
    code: int
    at: float
    planned: bool


Record: TypeAlias = (
    Run
    | Op
    | Fault
    | PhaseStart
    | Event
    | Effect
    | TaskRow
    | StaleWrite
    | Worker
    | SinkCall
    | SqlEffect
    | Sometimes
    | Scrape
    | HintsAtRest
    | Condition
    | Unready
    | Exit
    | Span
)
_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def encode(record: Record) -> bytes:
    """Encode a record as one line of a history, including the newline."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes | str) -> Record:
    """Decode one line of a history.

    Raises:
        ValueError: the line is not JSON, has an unknown kind, or a missing, unknown or wrong field.
    """
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place + ': ' if place else ''}{first['msg']}") from None
