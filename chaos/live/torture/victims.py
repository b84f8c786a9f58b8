"""The processes of a `holdfast up`, found from outside, and what is done to them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import psutil

from chaos.errors import ChaosError

_LABEL = "HOLDFAST_LABEL"
_SERVERS = {"postgres": "postgres", "valkey-server": "valkey"}  # by the name of the program


class Blow(StrEnum):
    """What is done to a process. STOP is followed by CONT."""

    KILL = "kill"
    STOP = "stop"
    TERMINATE = "terminate"


@dataclass(frozen=True, slots=True)
class Victim:
    """One process of the stack with its descendants, as it runs now."""

    name: str
    process: psutil.Process

    def strike(self, blow: Blow) -> bool:
        """Send the signal; return whether the process still ran."""
        match blow:
            case Blow.KILL:
                return self._send(signal.SIGKILL)
            case Blow.TERMINATE:
                # SIGTERM would let Postgres wait for its clients to leave, which they never do.
                return self._send(signal.SIGINT if self.name == "postgres" else signal.SIGTERM)
            case Blow.STOP:
                return all([self._send(signal.SIGSTOP), *self._to_children(signal.SIGSTOP)])

    def resume(self) -> None:
        """Let a stopped process and its descendants continue."""
        self._send(signal.SIGCONT)
        self._to_children(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.send_signal(number)
            return True
        return False

    def _to_children(self, number: signal.Signals) -> list[bool]:
        found: list[bool] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # a backend that has just ended
                    child.send_signal(number)
                    found.append(True)
        return found


class Stack:
    """The children of the process ``pid``, which runs `holdfast up`."""

    def __init__(self, pid: int) -> None:
        self._up = psutil.Process(pid)

    def victims(self) -> Mapping[str, Victim]:
        """Return the running processes by name: ``postgres``, ``valkey``, ``worker-1`` .."""
        found: dict[str, Victim] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self._up.children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    name = _SERVERS.get(process.name()) or process.environ().get(_LABEL)
                    if name is not None and process.status() != psutil.STATUS_ZOMBIE:
                        found[name] = Victim(name, process)
        return found

    def require(self, names: set[str]) -> None:
        """Check that all processes of the stack can be found.

        Raises:
            ChaosError: some cannot, so that they would never be struck.
        """
        if missing := names - self.victims().keys():
            raise ChaosError(f"cannot find the processes of the stack: {', '.join(missing)}")
