"""A scenario: what to break, when, and what must hold. One YAML file serves all arenas.

``load(path)`` and ``find(name)`` are strict: an error names the file, the key, and what is allowed.
Units stand in the names. The seed is not part of a scenario; ``pick`` and the workload draw from
the harness's own seeded generator (Toxiproxy's ``toxicity`` and ``jitter`` are refused: its seed
has no effect).
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from chaos.errors import ChaosError
from chaos.scenario import storm as storms
from chaos.scenario.faults import DeclaredSettings, FaultSpec, StrictModel, Survivors, Topology
from chaos.scenario.operations import Workload, other
from chaos.scenario.storm import Storm
from chaos.scenario.validation_errors import did_you_mean, explain
from chaos.scenario.vocabulary import LIVENESS, SAFETY, SOMETIMES, UNCONDITIONAL
from holdfast.settings import Settings

SCENARIOS = Path(__file__).parent.parent / "scenarios"


class ScenarioError(ChaosError):
    """A scenario that cannot be used; the message names file, key and what is allowed."""


def _computed() -> dict[str, Literal["computed"] | float]:
    return {"L1": "computed"}


class Expectations(StrictModel):
    """always: invariants of safety; those that hold under any fault are added. eventually: of
    liveness, ``computed`` or a number (seconds; of L5 a share).
    sometimes: what must have been seen, else the run proves nothing (``vocabulary.SOMETIMES``).
    """

    always: tuple[str, ...] = UNCONDITIONAL
    eventually: dict[str, Literal["computed"] | float] = Field(default_factory=_computed)
    sometimes: tuple[str, ...] = ()

    @field_validator("always", "eventually", "sometimes")
    @classmethod
    def _known(cls, names: Any, info: ValidationInfo) -> Any:
        allowed = {"always": SAFETY, "eventually": LIVENESS}.get(info.field_name or "", SOMETIMES)
        for name in names:
            if name not in allowed:
                raise ValueError(f"{name} is not known here{did_you_mean(name, allowed)}")
        if allowed is LIVENESS and names.get("L5") == "computed":
            raise ValueError("L5 is a share of a rate, such as 0.9: nothing computes it")
        return names

    @field_validator("always")
    @classmethod
    def _add_unconditional(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in SAFETY if name in {*UNCONDITIONAL, *names})


class Scenario(StrictModel):
    """A whole file. ``windows``: the fault windows (GLOSSARY.md) that it opens.

    ``storm`` draws topology, load and faults from the seed (``drawn``). ``survivors``: at the heal
    this many processes of each role are healed, drawn by seed; the others are killed for good.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    hypothesis: str = Field(min_length=20)
    windows: tuple[Annotated[str, Field(pattern=r"^W\d\d$")], ...] = ()
    topology: Topology = Topology()
    workload: Workload
    faults: tuple[FaultSpec, ...] = ()
    storm: Storm | None = None
    survivors: Survivors | None = None
    expect: Expectations = Expectations()

    @model_validator(mode="before")
    @classmethod
    def _name_faults(cls, data: Any) -> Any:
        """Name an unnamed fault after its kind and position: ``kill-1``."""
        faults = data.get("faults") if isinstance(data, dict) else None
        if not isinstance(faults, list):
            return data
        named = [
            {"name": f"{item.get('fault')}-{n}"} | item if isinstance(item, dict) else item
            for n, item in enumerate(faults, start=1)
        ]
        return data | {"faults": named}

    @model_validator(mode="after")
    def _core_exists(self) -> Self:
        for role in ("apis", "schedulers", "workers"):
            least = getattr(self.storm, role)[0] if self.storm else getattr(self.topology, role)
            if self.survivors and getattr(self.survivors, role) > least:
                raise ValueError(f"survivors.{role}: there may be only {least}")
        if self.storm and self.faults:
            raise ValueError("faults: drawn by the storm, none can be planned beside it")
        if self.storm:
            storms.check(self.storm, self.document)
        return self

    @model_validator(mode="after")
    def _targets_exist(self) -> Self:
        names = [fault.name for fault in self.faults]
        for n, fault in enumerate(self.faults):
            where = f"faults.{n}.target: {', '.join(fault.target)}"
            if names.count(fault.name) > 1:
                raise ValueError(f"faults.{n}.name: {fault.name} appears twice")
            if missing := fault.unmatched(self.topology):
                hint = did_you_mean(missing[0], fault.allowed(self.topology))
                raise ValueError(f"faults.{n}.target: {', '.join(missing)}: 0 targets match{hint}")
            found = fault.candidates(self.topology)
            if len(found) < (fault.pick or 1):
                raise ValueError(f"{where}: {len(found)} targets match, {fault.pick or 1} needed")
        return self

    @model_validator(mode="after")
    def _queues_are_read(self) -> Self:
        read = {queue for worker in self.workers for queue in self.queues_of(worker)}
        if missing := [name for name in self.workload.differences.queues if name not in read]:
            raise ValueError(f"topology.queues: no worker reads {missing[0]}")
        return self

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of the workers."""
        return tuple(name for name in self.topology.processes if name.startswith("worker-"))

    def queues_of(self, worker: str) -> tuple[str, ...]:
        """Return the queues that a worker reads: the declared ones, else one less than there are.

        Each worker leaves out another one, so that every queue has readers and no two workers are
        alike. All read all queues if that leaves one queue without a second reader: with fewer
        workers than queues, if only some are healed, or if only some know all names.
        """
        topology, queues = self.topology, self.workload.differences.queues
        if worker in topology.queues:
            return topology.queues[worker]
        place = self.workers.index(worker) % len(queues)
        turned = queues[place:] + queues[:place]
        alike = self.survivors or self.storm or topology.knows or topology.queues
        if alike or len(queues) < 3 or topology.workers < len(queues):
            return turned
        return turned[:-1]

    @property
    def unread_queues(self) -> tuple[str, ...]:
        """The queues that no worker reads, which only the setting ``known_queues`` makes known.

        A request that differs in its queue alone may name one of them.
        """
        read = {queue for worker in self.workers for queue in self.queues_of(worker)}
        return tuple(sorted({other(queue) for queue in self.workload.differences.queues} - read))

    @property
    def known_queues(self) -> frozenset[str]:
        """The queues in which the API accepts tasks once every worker has started."""
        read = (queue for worker in self.workers for queue in self.queues_of(worker))
        return frozenset({"default", *read, *self.unread_queues})

    @property
    def document(self) -> dict[str, Any]:
        """The scenario as plain JSON values; ``Scenario.model_validate`` reads it back."""
        return self.model_dump(mode="json", by_alias=True)

    def drawn(self, seed: int, *, plain: bool = False) -> Scenario:
        """Replace a storm by what this seed draws; return any other scenario unchanged.

        ``plain``: without the environment and the extra faults, which containers lack.
        """
        if self.storm is None:
            return self
        return Scenario.model_validate(storms.draw(self.storm, self.document, seed, plain=plain))

    def core(self, seed: int) -> tuple[str, ...]:
        """Return the processes that are healed at the end: all, or ``survivors`` drawn by seed."""
        processes = self.topology.processes
        if self.survivors is None:
            return processes
        rng = random.Random(f"core {seed}")
        kept: set[str] = set()
        for role in ("api", "scheduler", "worker"):
            mine = [name for name in processes if name.startswith(f"{role}-")]
            kept.update(rng.sample(mine, getattr(self.survivors, f"{role}s")))
        return tuple(name for name in processes if name in kept)

    def settings(self, **more: Any) -> Settings:
        """Return the settings of a process: defaults, the overrides of this file, then ``more``.

        Those of a worker need its ``queues`` (``queues_of``) besides.

        The environment is not read.
        """
        return DeclaredSettings(**(self.topology.settings | more))


class _UniqueKeys(yaml.SafeLoader):
    """Rejects duplicate keys, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the signature is the library's
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse(text: str, source: str) -> Scenario:
    """Parse a scenario from YAML text; errors name ``source``.

    Raises:
        ScenarioError: not YAML, or a key or value that is not allowed.
    """
    try:
        document = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
        if not isinstance(document, dict):
            raise ScenarioError(f"{source}: a mapping with id, hypothesis, workload, ... expected")
        return Scenario.model_validate(document)
    except yaml.YAMLError as error:
        raise ScenarioError(f"{source}: {error}") from None
    except ValidationError as error:
        lines = explain(error, Scenario)
        raise ScenarioError("\n".join(f"{source}: {line}" for line in lines)) from None


def load(path: Path) -> Scenario:
    """Load the scenario of a file, whose name must be its id.

    Raises:
        ScenarioError: it cannot be used.
        OSError: it cannot be opened.
    """
    scenario = parse(path.read_text(encoding="utf-8"), str(path))
    if scenario.id != path.stem:
        raise ScenarioError(f"{path}: id: {scenario.id} must be the name of the file, {path.stem}")
    return scenario


def names() -> tuple[str, ...]:
    """Return the ids of the included scenarios, ``calm`` (the control) first."""
    return tuple(sorted((p.stem for p in SCENARIOS.glob("*.yaml")), key=lambda n: (n != "calm", n)))


def find(name: str) -> Scenario:
    """Return an included scenario by its id, or any other by the path of its file.

    Raises:
        ScenarioError: there is none, or it cannot be used.
    """
    if re.search(r"[./\\]", name):
        return load(Path(name))
    if name not in names():
        raise ScenarioError(f"no scenario {name!r}{did_you_mean(name, names())}")
    return load(SCENARIOS / f"{name}.yaml")
