"""The ``workload`` of a scenario: how much load, and of which shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from chaos.scenario.faults import StrictModel

EFFECTS = ("ledger", "sql", "external")
# Two differ in nothing but case.
QUEUES = ("default", "bulk", "Bulk")
_BATCH_MAX = 1000
# No worker reads it, and no setting names it.
UNKNOWN_QUEUE = "nowhere"


class Effects(StrictModel):
    """Relative shares of the three kinds of effect."""

    ledger: float = Field(1.0, ge=0)
    sql: float = Field(0.0, ge=0)
    external: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.ledger + self.sql + self.external <= 0:
            raise ValueError("at least one share must be above 0")
        return self


def in_order(value: Any) -> Any:
    """Reject a range whose first number is greater than the second."""
    if isinstance(value, list) and len(value) == 2 and value[0] > value[1]:
        raise ValueError(f"[least, most], not {value}")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[Share, Share], BeforeValidator(in_order)]
Seconds = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], BeforeValidator(in_order)
]
Counts = Annotated[
    tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], BeforeValidator(in_order)
]


class Later(StrictModel):
    """A ``share`` of the tasks is due ``seconds`` [least, most] after its submit; the rest now."""

    share: Share = 0.0
    seconds: Seconds = (0.5, 3.0)


class Flaky(StrictModel):
    """A ``share`` of the tasks fails its first ``failures`` [least, most] attempts.

    Such a failure requests the next attempt after ``retry_seconds`` or somewhat longer
    (``Retry(after=...)``), or leaves it to the back-off that its handler declares.
    """

    share: Share = 0.0
    failures: Counts = (1, 2)
    retry_seconds: float = Field(0.2, ge=0)


class Differences(StrictModel):
    """How tasks differ from each other; a scenario that needs less says why.

    ``requests``: tasks have different names, priorities, limits, payloads, and keys of which two
    differ only in case; a repeat is written differently from the request that it repeats, a
    mismatch differs in exactly one field; if that is the queue, half of them name an unknown one.
    ``queues``: drawn evenly for each task. ``ends``: share of the tasks without planned failures
    that discard, fail until no attempt is left, are retried later, return odd values or leave a
    task of their own behind. ``hangs``: number of tasks of which attempts hang until their timeout.
    (``chaos.tasks.attempt``)
    """

    requests: bool = True
    queues: tuple[str, ...] = Field(QUEUES, min_length=1)
    ends: Share = 0.08
    hangs: int = Field(5, ge=0)

    @model_validator(mode="after")
    def _of_requests(self) -> Self:
        if not self.requests and (self.ends or self.hangs or len(self.queues) > 1):
            raise ValueError("without requests there are no ends, no hangs and only one queue")
        return self


def other(queue: str) -> str:
    """Return a queue that differs from another one, in most cases only by case."""
    return "another" if queue == "default" else queue.swapcase()


class Workload(StrictModel):
    """Client operations: ``tasks`` submits spread evenly over ``seconds``, and their companions.

    ``within``: spread them over this many seconds instead; the load still lasts ``seconds``.
    ``repeats``: share of submits sent again with the same key and payload. ``mismatches``: share
    sent again with the same key and another payload. ``cancels``, ``reads``: share of the tasks
    that are cancelled, read. ``handler_seconds``: [least, most] of an attempt.
    ``batch``: number of submits per POST /tasks/batch; ``invalid``: share of the batches with one
    more item, which must be refused alone. ``due_between``: [least, most] seconds of
    the run at which all tasks are due, instead of ``later``. ``poison``: number of tasks that kill
    the process of any worker that runs them (SIGKILL).
    ``only``: numbers of the tasks to submit, each unchanged; ``without``: kinds of operations to
    leave out (both reduce the operations without changing the rest; a history that no clients
    made leaves out all kinds).
    ``handlers``: further task names, each with payloads to draw from; every third task with the
    ledger effect is one of them.
    ``max_attempts``, ``timeout_seconds``: the least that a task has which its payload does not
    let fail.
    ``api_keys``: the named API keys of the clients, each with its secrets in order; every name
    makes all of these operations, under the same idempotency keys. A client sends each secret for
    an equal part of the load, whatever it resends.
    ``ok_min``: with fewer accepted submits the verdict is unknown (default: half of ``tasks``).
    """

    tasks: int = Field(ge=1)
    seconds: float = Field(gt=0)
    within: float | None = Field(None, gt=0)
    effects: Effects = Effects()
    later: Later = Later()
    due_between: Seconds | None = None
    flaky: Flaky = Flaky()
    differences: Differences = Differences()
    poison: int = Field(0, ge=0)
    handlers: dict[str, Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    batch: int = Field(1, ge=1, le=_BATCH_MAX)
    invalid: Share = 0.0
    repeats: Share = 0.0
    mismatches: Share = 0.0
    cancels: Share = 0.0
    reads: Share = 0.0
    handler_seconds: Seconds = (0.05, 0.3)
    max_attempts: int = Field(5, ge=1)
    timeout_seconds: float = Field(5.0, gt=0)
    api_keys: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict, max_length=4
    )
    ok_min: int | None = Field(None, ge=1)
    only: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    without: tuple[
        Literal["submit", "repeat", "mismatch", "cancel", "retry", "get", "events", "list"], ...
    ] = ()

    @model_validator(mode="after")
    def _survivable(self) -> Self:
        if self.flaky.share and self.flaky.failures[1] >= self.max_attempts:
            raise ValueError(
                f"flaky.failures up to {self.flaky.failures[1]} would use up all "
                f"max_attempts={self.max_attempts}"
            )
        if self.handler_seconds[1] >= self.timeout_seconds:
            raise ValueError("handler_seconds must stay below timeout_seconds")
        if self.invalid and not 1 < self.batch < _BATCH_MAX:
            raise ValueError(f"invalid: items of batches, which have 2 to {_BATCH_MAX - 1} others")
        if self.poison > self.tasks:
            raise ValueError(f"poison: {self.poison} of only {self.tasks} tasks")
        if self.only and (beyond := [number for number in self.only if number >= self.tasks]):
            raise ValueError(f"only: {beyond[0]}: the {self.tasks} tasks are numbered from 0")
        if self.due_between is not None and self.later.share:
            raise ValueError("due_between is for all tasks: it goes without later")
        return self

    @property
    def last_due_seconds(self) -> float:
        """The second at which the load ends, when the last task may become due."""
        return max(self.seconds, self.due_between[1] if self.due_between else 0.0)

    @property
    def least_accepted(self) -> int:
        """The number of ok submits below which a run proves nothing."""
        return self.ok_min if self.ok_min is not None else max(1, self.tasks_submitted // 2)

    @property
    def tasks_submitted(self) -> int:
        """The number of tasks that the clients submit, under all names of API keys."""
        planned = self.tasks if self.only is None else len(set(self.only))
        return planned * max(1, len(self.api_keys))
