"""A storm: topology, load and faults are drawn from a seed instead of being declared.

Swarm testing (Groce et al., ISSTA 2012), as TigerBeetle and FoundationDB do it: each seed is
another mixture of everything that must be tolerated. ``draw`` is pure; what it returns is an
ordinary document, so that a seed which found something can be kept as a scenario of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from chaos.scenario.faults import COLLECTOR, FaultSpec, StrictModel, Topology
from chaos.scenario.operations import Counts, Seconds, Shares, Workload, in_order
from chaos.scenario.validation_errors import did_you_mean
from chaos.scenario.vocabulary import SERVERS, TargetKind

# Time until a process that was ended is ready and busy again.
_RECOVERY_SECONDS = 3.0
# An idle worker asks Redis once a second: a shorter fault of that edge might meet nothing.
_IDLE_SECONDS = 1.1
_TRIES = 200
_CONDITION_SHARE = 0.25
_ROUNDS = 5


Processes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=9)], Annotated[int, Field(ge=1, le=9)]],
    BeforeValidator(in_order),
]


class Option(StrictModel):
    """A fault that may be drawn: a planned fault without its time. ``pick``: number of targets.

    ``lasts`` overrides that of the storm; ``weight`` is relative to the other options.
    """

    fault: str
    target: tuple[str, ...] | str
    stream: Literal["up", "down", "both"] = "both"
    attributes: dict[str, int] = Field(default_factory=dict)
    pick: int = Field(1, ge=1)
    lasts: Seconds | None = None
    weight: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.plan()
        return self

    def plan(self, **more: Any) -> FaultSpec:
        """Return the planned fault, with ``more`` of its fields."""
        fields = {"target": self.target, "stream": self.stream, "attributes": self.attributes}
        return FaultSpec.model_validate({"fault": self.fault, "at": 0} | fields | more)


class Storm(StrictModel):
    """Ranges [least, most], drawn evenly: of processes, of the number of ``faults``, of the second
    they ``begin`` and the seconds each ``lasts``; ``shares`` are those of the workload by name
    (``cancels``, ``flaky.share``). ``menu``: the faults to draw from. ``extra``: others, of which
    one is drawn besides. ``environment``: conditions, of which each is drawn once in four seeds.
    Both have generators of their own: what is added there changes no other draw.
    """

    apis: Processes = (1, 1)
    schedulers: Processes = (2, 2)
    workers: Processes = (3, 3)
    faults: Counts
    begin: Seconds
    lasts: Seconds
    shares: dict[
        Literal["cancels", "repeats", "mismatches", "reads", "later.share", "flaky.share"],
        Shares,
    ] = Field(default_factory=dict)
    menu: tuple[Option, ...] = Field(min_length=1)
    extra: tuple[Option, ...] = ()
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a drawn fault occupies, and when; other faults must not overlap with it."""

    plan: FaultSpec
    start: float
    end: float


def check(storm: Storm, document: Mapping[str, Any]) -> None:
    """Check that everything that may be drawn for this ``document`` (of a scenario) is possible.

    Raises:
        ValueError: the least or the most of something is not, or an option has no target.
    """
    for end in (0, 1):
        counts = {role: getattr(storm, role)[end] for role in _ROLES}
        most = {"environment": storm.environment}
        topology = Topology.model_validate(document["topology"] | counts | most)
        shares: dict[str, float] = {name: ends[end] for name, ends in storm.shares.items()}
        Workload.model_validate(_with_shares(document["workload"], shares))
    places = [(f"menu.{n}", option) for n, option in enumerate(storm.menu)]
    places += [(f"extra.{n}", option) for n, option in enumerate(storm.extra)]
    for place, option in places:
        if missing := option.plan().unmatched(topology):
            hint = did_you_mean(missing[0], option.plan().allowed(topology))
            where = f"storm.{place}.target: {', '.join(missing)}"
            raise ValueError(f"{where}: 0 targets match{hint}")


def draw(
    storm: Storm, document: Mapping[str, Any], seed: int, *, plain: bool = False
) -> dict[str, Any]:
    """Return ``document`` (of a scenario) with drawn topology, shares and faults, without storm.

    ``plain``: without ``environment`` and ``extra``.

    Faults that would hide each other's evidence do not overlap: one at a time on a process and its
    edges, and none on an edge while a server is down. Those that find no room are left out.
    """
    rng = random.Random(f"storm {seed}")
    counts = {role: rng.randint(*getattr(storm, role)) for role in _ROLES}
    topology = document["topology"] | counts
    shares: dict[str, float] = {
        name: round(rng.uniform(*ends), 3) for name, ends in storm.shares.items()
    }
    workload = _with_shares(document["workload"], shares)
    taken = _faults(storm, topology, rng)
    if not plain:
        taken += _extra(storm, topology, random.Random(f"storm extra {seed}"), taken)
        topology |= {"environment": _environment(storm, random.Random(f"storm environment {seed}"))}
    faults = [plan.model_dump(mode="json", by_alias=True) for plan in _numbered(taken)]
    drawn = {"topology": topology, "workload": workload, "faults": faults, "storm": None}
    return dict(document) | drawn


_ROLES = ("apis", "schedulers", "workers")


def _with_shares(workload: Mapping[str, Any], shares: Mapping[str, float]) -> dict[str, Any]:
    """Return the document of a workload with these shares, by name (``flaky.share``)."""
    changed = dict(workload)
    for name, value in shares.items():
        part, _, leaf = name.rpartition(".")
        changed |= {part: changed[part] | {leaf: value}} if part else {leaf: value}
    return changed


def _environment(storm: Storm, rng: random.Random) -> list[str]:
    """Draw conditions, each by itself."""
    return [name for name in storm.environment if rng.random() < _CONDITION_SHARE]


def _numbered(taken: list[_Taken]) -> Iterator[FaultSpec]:
    """Yield the planned faults in the order of their beginnings, named after it."""
    for number, each in enumerate(sorted(taken, key=lambda each: each.start), start=1):
        yield each.plan.model_copy(update={"name": f"{number}-{each.plan.fault}"})


def _extra(
    storm: Storm, topology: dict[str, Any], rng: random.Random, taken: list[_Taken]
) -> list[_Taken]:
    """Draw one of the extra faults that finds room beside the ``taken`` ones, if any does."""
    field = Topology.model_validate(topology)
    found = _arranged(storm, storm.extra, field, len(taken) + 1, rng, taken)
    return found[len(taken) :]


def _faults(storm: Storm, topology: dict[str, Any], rng: random.Random) -> list[_Taken]:
    field = Topology.model_validate(topology)
    wanted = rng.randint(*storm.faults)
    taken: list[_Taken] = []
    for _ in range(_ROUNDS):
        # Early draws may leave no room for later ones; then all are drawn again.
        taken = max(taken, _arranged(storm, storm.menu, field, wanted, rng), key=len)
        if len(taken) >= storm.faults[0]:
            break
    return taken


def _arranged(
    storm: Storm,
    menu: Sequence[Option],
    field: Topology,
    wanted: int,
    rng: random.Random,
    before: Sequence[_Taken] = (),
) -> list[_Taken]:
    """Draw faults beside those ``before`` until there are ``wanted``, or there is no room."""
    taken = list(before)
    for _ in range(_TRIES if menu else 0):
        if len(taken) == wanted:
            break
        option = rng.choices(menu, [each.weight for each in menu])[0]
        start = round(rng.uniform(*storm.begin), 2)
        lasts = round(rng.uniform(*(option.lasts or storm.lasts)), 2)
        if option.plan().target_kind is TargetKind.EDGE:
            lasts = max(lasts, _IDLE_SECONDS)
        known = option.plan().candidates(field)
        targets = sorted(rng.sample(known, min(option.pick, len(known))), key=known.index)
        if not targets:
            continue
        plan = option.plan(target=targets, at=start, **{"for": max(0.05, lasts)})
        drawn = _Taken(plan, start, start + lasts + _RECOVERY_SECONDS)
        if not any(_collide(drawn, other) for other in taken):
            taken.append(drawn)
    return taken


def _collide(a: _Taken, b: _Taken) -> bool:
    if a.end < b.start or b.end < a.start:
        return False
    kinds = {a.plan.target_kind, b.plan.target_kind}
    if kinds == {TargetKind.SERVER}:
        return bool(set(a.plan.target) & set(b.plan.target))
    if kinds == {TargetKind.SERVER, TargetKind.EDGE}:
        return True
    return bool(_processes(a.plan) & _processes(b.plan))


def _processes(plan: FaultSpec) -> set[str]:
    """Return the processes that a fault affects (of an edge: both ends)."""
    ends = {end for target in plan.target for end in target.split("->")}
    return ends - {*SERVERS, "sink", "client", COLLECTOR}
