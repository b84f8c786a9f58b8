"""Batch concurrent submits into few statements (group commit).

Submits arriving within ``wait_seconds`` are batched into one ``store.submit``. A few statements
may be in flight concurrently; submits that arrive while all are busy form the next batch. A
cancelled request (its client disconnected) is dropped from the batch unless it was already sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from holdfast.errors import HoldfastError, OutcomeUnknown, StatementCancelled, Unavailable
from holdfast.model.task import NewTask, Submitted
from holdfast.store.resend import Unanswered, send_halving, until_answered

Submit = Callable[[Sequence[NewTask], str], Awaitable[list[Submitted]]]
Outcome = Submitted | HoldfastError

_PAUSE_SECONDS = 0.05
_PAUSE_SECONDS_MAX = 1.0


class Overloaded(HoldfastError):
    """Too many tasks are waiting to be stored. Nothing was done; try again later."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one statement, and of all tasks not stored yet. Bytes count payloads only."""

    wait_seconds: float = 0.002
    statement_tasks: int = 500
    statement_bytes: int = 4 << 20
    statements_in_flight: int = 4
    waiting_tasks: int = 10_000
    waiting_bytes: int = 64 << 20


@dataclass(slots=True, eq=False)
class _Entry:
    task: NewTask
    future: asyncio.Future[Submitted]
    sent: bool = False
    unknown: bool = False  # an earlier send may have stored it

    def settle(self, outcome: Outcome) -> None:
        if self.future.done():
            return
        if isinstance(outcome, Submitted):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)

    def outcome(self) -> Outcome:
        """Return the result or the error; for a task without either, whether it was sent."""
        if self.future.done() and not self.future.cancelled():
            error = self.future.exception()
            if error is None:
                return self.future.result()
            if isinstance(error, HoldfastError):
                return error
            raise error
        if self.sent:
            return _unanswered()
        return Unavailable("the task was not sent to the database in time")


def _unanswered() -> OutcomeUnknown:
    return OutcomeUnknown("the database did not answer in time")


def _is_divisible(group: Sequence[_Entry], error: Unanswered) -> bool:
    """Return whether the halves of the group may succeed (``send_halving`` sends them)."""
    return isinstance(error, StatementCancelled) and len(group) > 1


def _mark_unknown(group: Sequence[_Entry]) -> None:
    for entry in group:
        entry.unknown = True


def _fail(group: Sequence[_Entry], error: Unanswered) -> None:
    for entry in group:
        entry.settle(_unanswered() if entry.unknown else error)


class Coalescer:
    """Batches the submits of one process; bound to the event loop that first uses it."""

    def __init__(
        self, submit: Submit, actor: str, timeout_seconds: float, bounds: Bounds | None = None
    ) -> None:
        """``timeout_seconds``: how long a caller waits before it gets an error instead."""
        self._submit = submit
        self._actor = actor
        self._timeout_seconds = timeout_seconds
        self._bounds = bounds or Bounds()
        self._waiting: deque[_Entry] = deque()
        self._held_tasks = 0  # waiting or in flight
        self._held_bytes = 0
        self._flights: dict[asyncio.Task[None], None] = {}  # an ordered set
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    async def submit(self, tasks: Sequence[NewTask]) -> list[Outcome]:
        """Store the tasks; return, in order, Submitted or an error for each.

        Errors are Unstorable (this task), Unavailable (nothing was done), OutcomeUnknown.

        Raises:
            Overloaded: nothing was done.
        """
        entries = self._admit(tasks)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await asyncio.gather(*(entry.future for entry in entries), return_exceptions=True)
        except TimeoutError:
            pass
        return [entry.outcome() for entry in entries]

    async def close(self) -> None:
        """Refuse new submits and wait until the current ones are settled."""
        self._closing = True
        while self._waiting or self._flights:
            self._launch()
            await asyncio.gather(*self._flights, return_exceptions=True)

    def _admit(self, tasks: Sequence[NewTask]) -> list[_Entry]:
        if self._closing:
            raise Overloaded("this API process is stopping")
        size = sum(len(task.payload) for task in tasks)
        full = self._held_tasks + len(tasks) > self._bounds.waiting_tasks
        if full or self._held_bytes + size > self._bounds.waiting_bytes:
            raise Overloaded(f"{self._held_tasks} tasks are already waiting to be stored")
        loop = asyncio.get_running_loop()
        entries = [_Entry(task, loop.create_future()) for task in tasks]
        self._held_tasks += len(tasks)
        self._held_bytes += size
        self._waiting.extend(entries)
        if len(self._waiting) >= self._bounds.statement_tasks:
            self._launch()
        elif self._timer is None:
            self._timer = loop.call_later(self._bounds.wait_seconds, self._launch)
        return entries

    def _launch(self) -> None:
        """Send waiting tasks, within the limit of statements in flight."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and len(self._flights) < self._bounds.statements_in_flight:
            group = self._take()
            if group:
                flight = asyncio.get_running_loop().create_task(self._store(group))
                self._flights[flight] = None
                flight.add_done_callback(self._finished)

    def _take(self) -> list[_Entry]:
        """Return the next batch, without tasks whose clients have disconnected."""
        group: list[_Entry] = []
        size = 0
        while self._waiting and len(group) < self._bounds.statement_tasks:
            entry = self._waiting[0]
            length = len(entry.task.payload)
            if group and size + length > self._bounds.statement_bytes:
                break
            self._waiting.popleft()
            if entry.future.done():
                self._release([entry])
                continue
            group.append(entry)
            size += length
        return group

    def _finished(self, flight: asyncio.Task[None]) -> None:
        del self._flights[flight]
        if self._waiting:
            self._launch()

    async def _store(self, group: list[_Entry]) -> None:
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        try:
            await send_halving(group, lambda part: self._send(part, deadline), _Entry.settle)
        except Exception as error:  # noqa: BLE001 - a bug must reach the callers
            for entry in group:
                if not entry.future.done():
                    entry.future.set_exception(error)
        finally:
            self._release(group)

    async def _send(self, group: Sequence[_Entry], deadline: float) -> Sequence[Submitted]:
        """Send one statement for the group, and resend it while its outcome is unknown.

        Safe because ids and keys were fixed before the first send.
        """
        pause = _PAUSE_SECONDS

        async def send() -> list[Submitted]:
            for entry in group:
                entry.sent = True
            return await self._submit([entry.task for entry in group], self._actor)

        async def should_resend(error: Unanswered) -> bool:
            nonlocal pause
            if isinstance(error, OutcomeUnknown):
                _mark_unknown(group)
            if _is_divisible(group, error):
                return False
            # The entries of a group were sent together before, so all or none are unknown.
            if not group[0].unknown or asyncio.get_running_loop().time() + pause >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)
            return True

        try:
            answers = await until_answered(send, should_resend)
        except (OutcomeUnknown, Unavailable) as error:
            if _is_divisible(group, error):
                raise
            _fail(group, error)
            return []
        for entry, answer in zip(group, answers, strict=True):
            entry.settle(answer)
        return answers

    def _release(self, entries: list[_Entry]) -> None:
        self._held_tasks -= len(entries)
        self._held_bytes -= sum(len(entry.task.payload) for entry in entries)
