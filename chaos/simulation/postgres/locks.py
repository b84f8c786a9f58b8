"""Statements that wait for a lock: parked in virtual time, woken one at a time by seed.

Otherwise several waiters of one lock would race in real time when it is released. So a waiting
backend is stopped (SIGSTOP) and continues only when nothing blocks it and it is picked.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from chaos.simulation.postgres.backend import Backend, Control, array

_FREEZE_SECONDS = 0.05


class Waiter(Protocol):
    """A connection whose statement may have to wait for a lock."""

    backend: Backend


_W = TypeVar("_W", bound=Waiter)


class LockWaits(Generic[_W]):
    """The connections that wait for a lock, in the order in which they began to wait."""

    def __init__(self) -> None:
        self.parked: list[_W] = []

    def park(self, control: Control, connection: _W) -> bool:
        """Stop the backend of ``connection`` if it waits for a lock; return whether it does.

        A wait that completes a deadlock is left running, so that Postgres picks it as the victim.
        As the only running backend of the cycle, the victim is always the last one to wait.
        """
        pids = [waiter.backend.pid for waiter in (*self.parked, connection)]
        blockers = _blockers(control, pids)
        pid = connection.backend.pid
        if not blockers[pid] or _reaches(pid, pid, blockers):
            return False
        connection.backend.stop()
        while not control.answers(_question([pid]), _FREEZE_SECONDS):
            # It was stopped while holding the latch of the lock table, which blocks everyone.
            connection.backend.signal(signal.SIGCONT)
            control.settle()
            connection.backend.stop()
        self.parked.append(connection)
        return True

    def waits_for(self, control: Control, connection: _W, pid: int) -> bool:
        """Return whether a parked connection waits for the backend ``pid``."""
        waiting = connection.backend.pid
        return pid in _blockers(control, [waiting])[waiting]

    def granted(self, control: Control) -> list[_W]:
        """Return the connections that nothing blocks any more."""
        if not self.parked:
            return []
        blockers = _blockers(control, [waiter.backend.pid for waiter in self.parked])
        return [waiter for waiter in self.parked if not blockers[waiter.backend.pid]]

    def release(self, connection: _W, *signals: int) -> None:
        """Let a backend run again, delivering ``signals`` first."""
        self.parked.remove(connection)
        connection.backend.signal(*signals, signal.SIGCONT)


def _question(pids: list[int]) -> str:
    return f"SELECT pid, pg_blocking_pids(pid) FROM unnest({array(pids)}) AS pid"  # noqa: S608


def _blockers(control: Control, pids: list[int]) -> dict[int, set[int]]:
    """Return, by process id, the processes it waits for."""
    return {
        int(pid): {int(word) for word in found.strip("{}").split(",") if word}
        for pid, found in control.rows(_question(pids))
    }


def _reaches(start: int, goal: int, blockers: Mapping[int, set[int]]) -> bool:
    seen: set[int] = set()
    todo = [start]
    while todo:
        for pid in blockers.get(todo.pop(), ()):
            if pid == goal:
                return True
            if pid not in seen:
                seen.add(pid)
                todo.append(pid)
    return False
