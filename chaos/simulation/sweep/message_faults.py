"""Faults of the crash sweep: kill a process at a message, or lose the message."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from chaos.errors import ChaosError
from chaos.scenario.vocabulary import SERVERS
from chaos.simulation.environment.environment import SimulatedEnvironment
from chaos.simulation.environment.processes import RESTART_DELAY_SECONDS
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node
from chaos.simulation.network.network import Message
from chaos.simulation.sweep.labels import Labels

_ROLES = ("api-", "scheduler-", "worker-")
_FAULT = re.compile(
    r"(?:kill (?P<victim>[\w-]+) (?P<when>before|after)|lose)"
    r" (?P<message>(?P<client>[\w-]+)->(?P<server>[\w-]+) (?P<way>up|down) .+ #\d+)"
)
_AND = " + "


class MessageFaultKind(StrEnum):
    """Kinds of single message faults."""

    SENDER = "kill the sender, the message is on its way"
    RECEIVER = "kill the receiver before it gets it"
    RECEIVED = "kill the receiver when it has it"
    REQUEST = "lose a request, the connection breaks"
    REPLY = "lose a reply, the connection breaks"
    POSTGRES = "kill postgres at a message to or from it"
    REDIS = "kill redis at a message to or from it"


class ScheduleError(ChaosError):
    """A text is not a valid schedule; the message explains the syntax."""


@dataclass(frozen=True, slots=True)
class MessageFault:
    """A fault at one message.

    ``victim`` is killed ``before`` the ``message`` is delivered, or just ``after``; without a
    victim the message is lost. ``message`` is a label (``labels.Label``).
    """

    message: str
    victim: str = ""
    when: str = ""

    def __str__(self) -> str:
        return f"kill {self.victim} {self.when} {self.message}" if self.victim else self._lose

    @classmethod
    def parse(cls, text: str) -> MessageFault:
        """Parse what ``str`` returns.

        Raises:
            ScheduleError: the text does not match the syntax.
        """
        found = _FAULT.fullmatch(text)
        if found is None:
            raise ScheduleError(
                f"{text!r} is not a fault; write 'kill worker-1 before MESSAGE', 'kill worker-1 "
                "after MESSAGE' or 'lose MESSAGE', MESSAGE like 'worker-1->postgres up claim #1'"
            )
        return cls(found["message"], found["victim"] or "", found["when"] or "")

    @property
    def edge(self) -> str:
        """Return the edge, ``client->server``."""
        return self.message.partition(" ")[0]

    @property
    def is_request(self) -> bool:
        """Whether the message goes to the server."""
        return self.message.split(" ", 2)[1] == "up"

    @property
    def kind(self) -> MessageFaultKind:
        """Classify the fault."""
        if not self.victim:
            return MessageFaultKind.REQUEST if self.is_request else MessageFaultKind.REPLY
        if self.victim in SERVERS:
            return (
                MessageFaultKind.POSTGRES if self.victim == "postgres" else MessageFaultKind.REDIS
            )
        if self.when == "after":
            return MessageFaultKind.RECEIVED
        client, _, server = self.edge.partition("->")
        sender = client if self.is_request else server
        return MessageFaultKind.SENDER if self.victim == sender else MessageFaultKind.RECEIVER

    @property
    def scenario_fault(self) -> dict[str, Any]:
        """Return it as a fault of a scenario, without its time."""
        if self.victim:
            return {"name": str(self), "fault": "kill", "target": self.victim}
        way = "up" if self.is_request else "down"
        return {
            "name": str(self),
            "fault": "reset_peer",
            "target": self.edge,
            "stream": way,
            "attributes": {"timeout": 0},
        }

    @property
    def _lose(self) -> str:
        return f"lose {self.message}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Message faults in order, in one scope (the name of its scenario)."""

    scope: str
    faults: tuple[MessageFault, ...]

    def __str__(self) -> str:
        return f"{self.scope}: {_AND.join(map(str, self.faults))}"

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Parse what ``str`` returns.

        Raises:
            ScheduleError: the text does not match the syntax.
        """
        scope, colon, rest = text.partition(": ")
        if not colon:
            raise ScheduleError(
                f"{text!r} is not a schedule; write 'SCOPE: FAULT' or 'SCOPE: FAULT + ...'"
            )
        return cls(scope, tuple(MessageFault.parse(each) for each in rest.split(_AND)))


@dataclass(frozen=True, slots=True)
class MessagePoint:
    """A message about to be delivered at a virtual second; ``changes`` as in its label.

    ``sender`` and ``receiver``: the processes that can be killed there, "" where none can.
    """

    at: float
    message: str
    changes: bool
    sender: str
    receiver: str

    def faults(self) -> Iterator[MessageFault]:
        """Yield all faults possible here, except for kills of servers."""
        if self.sender:
            yield MessageFault(self.message, self.sender, "before")
        if self.receiver:
            yield MessageFault(self.message, self.receiver, "before")
            yield MessageFault(self.message, self.receiver, "after")
        yield MessageFault(self.message)

    def server_faults(self) -> Iterator[MessageFault]:
        """Yield the kill of the server at one end, if there is one."""
        server = self.message.partition(" ")[0].partition("->")[2]
        if server in SERVERS:
            yield MessageFault(self.message, server, "before")


@dataclass(slots=True)
class InjectedMessageFault:
    """A fault that was injected. ``at``: virtual second; ``evidence``: of its effect."""

    fault: MessageFault
    at: float
    observed: bool
    evidence: dict[str, Any] = field(default_factory=dict)


class MessageFaultInjector:
    """Injects a schedule into one run. ``points``: all messages except the harness's.

    ``see`` is the run's tap. ``attach`` must be called on the harness's node, before anything is
    started.
    """

    def __init__(self, faults: Sequence[MessageFault]) -> None:
        self.points: list[MessagePoint] = []
        self.injected: list[InjectedMessageFault] = []
        self._todo = {fault.message: fault for fault in faults}
        self._environment: SimulatedEnvironment | None = None
        self._labels: Labels | None = None
        self._harness = contextvars.copy_context()

    def attach(self, environment: SimulatedEnvironment) -> None:
        """Name the environment whose processes are killed."""
        self._environment = environment
        self._labels = Labels(environment.postgres.names)
        self._harness = contextvars.copy_context()

    def see(self, message: Message) -> bool:
        """Inject the fault planned for this message; return whether to deliver it."""
        if message.edge.startswith("harness->"):
            return True
        assert self._labels is not None  # noqa: S101 - attach() came first
        label = self._labels.of(message)
        sender, receiver = _killable(message.sender), _killable(message.receiver)
        now = self._loop.time()
        self.points.append(MessagePoint(now, label.text, label.changes, sender, receiver))
        fault = self._todo.pop(label.text, None)
        if fault is None:
            return True
        self._loop.trace.note("fault", message.edge, str(fault))
        if not fault.victim:
            # The network breaks the connection of a message that is lost.
            evidence = {"connection": message.connection, "bytes": len(message.data)}
            self.injected.append(InjectedMessageFault(fault, now, observed=True, evidence=evidence))
            return False
        self._kill(fault, message, now)
        return True

    @property
    def _attached(self) -> SimulatedEnvironment:
        assert self._environment is not None  # noqa: S101 - attach() came first
        return self._environment

    @property
    def _loop(self) -> SimulationLoop:
        return self._attached.postgres.loop

    def _kill(self, fault: MessageFault, message: Message, now: float) -> None:
        if fault.victim in SERVERS:
            self._kill_server(fault, now)
            return
        ends = {message.sender.name: message.sender, message.receiver.name: message.receiver}
        victim = ends.get(fault.victim)
        if victim is None or not victim.alive:
            self.injected.append(InjectedMessageFault(fault, now, observed=False))
        elif fault.when == "before":
            self._end(fault, victim)
        else:
            # Kill it after the callbacks that the delivery made ready, so that it could react.
            loop, context = self._loop, victim.context.copy()
            loop.call_soon(loop.call_soon, self._end, fault, victim, context=context)

    def _end(self, fault: MessageFault, victim: Node) -> None:
        alive, now = victim.alive, self._loop.time()
        self._loop.kill(victim)
        evidence = {"pid": victim.number, "exit": victim.exit_code}
        self.injected.append(InjectedMessageFault(fault, now, observed=alive, evidence=evidence))

    def _kill_server(self, fault: MessageFault, now: float) -> None:
        """Kill the real server and start a new one."""
        environment = self._attached
        server = environment.postgres if fault.victim == "postgres" else environment.valkey
        pid = server.pid
        if server is environment.postgres:
            environment.postgres.crash()
        else:
            environment.valkey.kill()
        self.injected.append(
            InjectedMessageFault(fault, now, observed=pid is not None and server.pid is None)
        )
        self._loop.call_later(RESTART_DELAY_SECONDS, server.start, context=self._harness)


def _killable(node: Node) -> str:
    return node.name if node.name.startswith(_ROLES) and node.alive else ""
