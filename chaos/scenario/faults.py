"""The topology of a scenario and its planned faults."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from chaos.scenario.conditions import require_condition
from chaos.scenario.validation_errors import did_you_mean
from chaos.scenario.vocabulary import EVENTS, FAULTS, SERVERS, TargetKind
from holdfast.settings import Settings

# Its edges carry telemetry, not the work on tasks. A fault in all edges of a process must not
# include them, so a pattern has to name the collector.
COLLECTOR = "collector"


# A file may give one name instead of a list.
OneOrMany = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
]


class StrictModel(BaseModel):
    """A part of a scenario file: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DeclaredSettings(Settings):
    """Settings from arguments only, so that the environment cannot change a scenario."""

    @classmethod
    def environment(cls) -> dict[str, str]:
        """Return nothing."""
        return {}

    @classmethod
    def otel_variables(cls) -> dict[str, str]:
        """Return nothing."""
        return {}


class Topology(StrictModel):
    """Processes: ``api-1..``, ``scheduler-1..``, ``worker-1..``, one Postgres, one Redis, one sink,
    one collector of spans.

    ``settings`` overrides fields of ``holdfast.settings.Settings``, for every process alike.
    ``knows``: the kinds of effect whose handlers a worker has (default: all), as while a new
    version is being rolled out. ``queues``: the queues that a worker reads (default:
    ``Scenario.queues_of``). ``environment``: the conditions in force, one or a list
    (``chaos.scenario.conditions``).
    """

    apis: int = Field(1, ge=1, le=9)
    schedulers: int = Field(2, ge=1, le=9)
    workers: int = Field(3, ge=1, le=9)
    settings: dict[str, Any] = Field(default_factory=dict)
    knows: dict[str, tuple[Literal["ledger", "sql", "external"], ...]] = Field(default_factory=dict)
    queues: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    environment: OneOrMany = ()

    @field_validator("environment")
    @classmethod
    def _known_conditions(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            require_condition(name)
            if names.count(name) > 1:
                raise ValueError(f"{name} appears twice")
        return names

    @model_validator(mode="after")
    def _known_workers(self) -> Self:
        workers = [name for name in self.processes if name.startswith("worker-")]
        for field, what in (("knows", "kind"), ("queues", "queue")):
            for name, given in getattr(self, field).items():
                if name not in workers:
                    hint = did_you_mean(name, workers)
                    raise ValueError(f"{field}: {name}: no such worker{hint}")
                if not given:
                    raise ValueError(f"{field}: {name}: at least one {what}")
        return self

    @field_validator("settings")
    @classmethod
    def _known_settings(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        for name in overrides:
            if name not in Settings.model_fields:
                raise ValueError(
                    f"{name}: no such setting{did_you_mean(name, Settings.model_fields)}"
                )
        DeclaredSettings(**overrides)
        return overrides

    @property
    def processes(self) -> tuple[str, ...]:
        """The names of all processes of the system."""
        counts = {"api": self.apis, "scheduler": self.schedulers, "worker": self.workers}
        return tuple(f"{role}-{n + 1}" for role, count in counts.items() for n in range(count))

    @property
    def edges(self) -> tuple[str, ...]:
        """Every edge that has a proxy, as ``actor->dependency``."""
        edges = [f"client->api-{n + 1}" for n in range(self.apis)]
        for process in self.processes:
            edges += [f"{process}->postgres", f"{process}->redis", f"{process}->{COLLECTOR}"]
            if process.startswith("worker-"):
                edges.append(f"{process}->sink")
        return tuple(edges)


class Survivors(StrictModel):
    """How many processes of each role are healed at the end."""

    apis: int = Field(1, ge=1)
    schedulers: int = Field(1, ge=1)
    workers: int = Field(1, ge=1)


class After(StrictModel):
    """The ``count``-th ``event`` of ``actor`` (a pattern; None: any actor) in ``task_events``.

    ``event`` is a name of ``holdfast.model.lifecycle.Reason`` in lower case. With ``every`` and
    ``times`` the first injection follows the event, the others ``every`` seconds later. ``plus``:
    seconds to wait after the event.
    """

    event: str
    actor: str | None = None
    count: int = Field(1, ge=1)
    plus: float = Field(0.0, ge=0)

    @field_validator("event")
    @classmethod
    def _known(cls, event: str) -> str:
        if event not in EVENTS:
            raise ValueError(f"{event}: no such event{did_you_mean(event, EVENTS)}")
        return event


class FaultSpec(StrictModel):
    """One planned fault: ``times`` injections, the first ``at`` a second or ``after`` an event.

    ``target``: pattern or list of patterns of edges (``worker-*->redis``; those to the collector
    only by its name), of processes (``worker-*``), or a server (``postgres``, ``redis``).
    ``pick``: number of matching targets, drawn by seed for each injection; None: all of them.
    ``for`` (seconds): an edge fault is removed, a paused process resumed, a killed or terminated
    one started again after this time; None: at the heal. ``until`` an event, counted from the start
    on, ends it earlier; then ``for`` is the limit. Edge faults hit ``stream`` up (client to
    server), down, or both.
    """

    name: str = ""
    fault: str
    target: OneOrMany = Field(min_length=1)
    stream: Literal["up", "down", "both"] = "both"
    attributes: dict[str, int] = Field(default_factory=dict)
    at: float | None = Field(None, ge=0)
    after: After | None = None
    for_seconds: float | None = Field(None, gt=0, alias="for")
    until: After | None = None
    every: float | None = Field(None, gt=0)
    times: int = Field(1, ge=1)
    pick: int | None = Field(None, ge=1)

    @field_validator("fault")
    @classmethod
    def _known(cls, fault: str) -> str:
        if fault not in FAULTS:
            raise ValueError(f"{fault}: no such fault{did_you_mean(fault, FAULTS)}")
        return fault

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.at is None) == (self.after is None):
            raise ValueError("give either at: <second> or after: {event, actor, count}")
        if (self.every is None) != (self.times == 1):
            raise ValueError("every and times (> 1) go together")
        self._check_target_kind()
        self._check_attributes()
        if self.until is not None and self.for_seconds is None:
            raise ValueError("a fault with until needs for: it must end if the event never comes")
        if self.every is not None and self.for_seconds is None:
            raise ValueError("a fault with every needs for: it must end before the next injection")
        if self.every is not None and self.for_seconds is not None:
            self._check_apart(self.every, self.for_seconds)
        return self

    def _check_apart(self, every: float, lasts: float) -> None:
        # With pick, the next injection may hit another process while this one is still down.
        if lasts >= every and not (self.pick and self.target_kind is TargetKind.PROCESS):
            raise ValueError(f"for: {lasts} must end before the next injection, every: {every}")

    def _check_target_kind(self) -> None:
        kind, where = FAULTS[self.fault], f"target: {', '.join(self.target)}"
        if self.target_kind not in kind.target_kinds:
            allowed = " or ".join(f"{each.value}" for each in kind.target_kinds)
            raise ValueError(f"{where}: {self.fault} applies to {allowed}")
        if self.target_kind is TargetKind.SERVER and not kind.servers.issuperset(self.target):
            servers = " or ".join(sorted(kind.servers))
            raise ValueError(f"{where}: {self.fault} is a fault of {servers}")

    def _check_attributes(self) -> None:
        allowed = FAULTS[self.fault].attributes
        for name in self.attributes:
            if name not in allowed:
                raise ValueError(
                    f"attributes: {name} is none of {self.fault}'s{did_you_mean(name, allowed)}"
                )
        missing = [name for name in allowed if name not in self.attributes]
        if missing:
            raise ValueError(f"attributes: {self.fault} needs {', '.join(missing)}")

    @property
    def target_kind(self) -> TargetKind:
        """The kind of its targets: edges, processes or a server."""
        if any(target in SERVERS for target in self.target):
            return TargetKind.SERVER
        return TargetKind.EDGE if "->" in self.target[0] else TargetKind.PROCESS

    @property
    def fault_ids(self) -> tuple[str, ...]:
        """The ``fault_id`` of each planned injection."""
        return tuple(f"{self.name}#{n + 1}" for n in range(self.times))

    def candidates(self, topology: Topology) -> tuple[str, ...]:
        """Return the concrete targets that match, in a fixed order (``pick`` draws from these)."""
        known = self.allowed(topology)
        return tuple(k for k in known if any(_matches(k, pattern) for pattern in self.target))

    def unmatched(self, topology: Topology) -> tuple[str, ...]:
        """Return the patterns of ``target`` that match no target of its kind."""
        known = self.allowed(topology)
        return tuple(p for p in self.target if not any(_matches(k, p) for k in known))

    def allowed(self, topology: Topology) -> tuple[str, ...]:
        """Return every target of its kind."""
        return {
            TargetKind.EDGE: topology.edges,
            TargetKind.PROCESS: topology.processes,
            TargetKind.SERVER: SERVERS,
        }[self.target_kind]


def _matches(target: str, pattern: str) -> bool:
    if target.endswith(f"->{COLLECTOR}") and not pattern.endswith(f"->{COLLECTOR}"):
        return False
    return fnmatchcase(target, pattern)
