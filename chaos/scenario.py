"""A scenario: what to break, when, and what must hold. One YAML file serves both arenas.

``load(path)`` and ``find(name)`` are strict: an error names the file, the key, and what is allowed.
Units stand in the names. The seed is not part of a scenario; ``pick`` and the workload draw from
the harness's own seeded generator (Toxiproxy's ``toxicity`` and ``jitter`` are refused: its seed
has no effect).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from chaos.explain import did_you_mean, explain
from chaos.plan import DeclaredSettings, FaultPlan, Part, Topology
from chaos.vocabulary import FAULTS, INVARIANTS, SOMETIMES, FaultSort
from system.settings import Settings

SCENARIOS = Path(__file__).parent / "scenarios"


class ScenarioError(ValueError):
    """A scenario that cannot be used; the message names file, key and what is allowed."""


class Effects(Part):
    """Relative shares of the three kinds of effect (design section 5)."""

    ledger: float = Field(1.0, ge=0)
    sql: float = Field(0.0, ge=0)
    external: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.ledger + self.sql + self.external <= 0:
            raise ValueError("at least one share must be above 0")
        return self


_Share = Annotated[float, Field(ge=0, le=1)]


def _in_order(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and value[0] > value[1]:
        raise ValueError(f"[least, most], not {value}")
    return value


_Seconds = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], BeforeValidator(_in_order)
]
_Counts = Annotated[
    tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], BeforeValidator(_in_order)
]


class Later(Part):
    """A ``share`` of the tasks is due ``seconds`` [least, most] after its submit; the rest now."""

    share: _Share = 0.0
    seconds: _Seconds = (0.5, 3.0)


class Flaky(Part):
    """A ``share`` of the tasks fails its first ``failures`` [least, most] attempts.

    Each such failure asks for the next attempt after ``retry_seconds`` (``Retry(after=...)``).
    """

    share: _Share = 0.0
    failures: _Counts = (1, 2)
    retry_seconds: float = Field(0.2, ge=0)


class Workload(Part):
    """Client operations: ``tasks`` submits spread evenly over ``seconds``, and what goes with them.

    ``repeats``: share of submits sent again with the same key and payload. ``mismatches``: share
    sent again with the same key and another payload. ``cancels``, ``reads``: share of the tasks
    that are cancelled, read. ``handler_seconds``: [least, most] of an attempt.
    ``max_attempts``, ``timeout_seconds``: asked for at each submit.
    ``ok_min``: with fewer accepted submits the verdict is unknown (default: half of ``tasks``).
    """

    tasks: int = Field(ge=1)
    seconds: float = Field(gt=0)
    effects: Effects = Effects()
    later: Later = Later()
    flaky: Flaky = Flaky()
    repeats: _Share = 0.0
    mismatches: _Share = 0.0
    cancels: _Share = 0.0
    reads: _Share = 0.0
    handler_seconds: _Seconds = (0.05, 0.3)
    max_attempts: int = Field(5, ge=1)
    timeout_seconds: float = Field(5.0, gt=0)
    ok_min: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _survivable(self) -> Self:
        if self.flaky.share and self.flaky.failures[1] >= self.max_attempts:
            raise ValueError(
                f"flaky.failures up to {self.flaky.failures[1]} would use up all "
                f"max_attempts={self.max_attempts}"
            )
        if self.handler_seconds[1] >= self.timeout_seconds:
            raise ValueError("handler_seconds must stay below timeout_seconds")
        return self

    @property
    def least_accepted(self) -> int:
        """The number of ok submits below which a run proves nothing."""
        return self.ok_min if self.ok_min is not None else max(1, self.tasks // 2)


def _computed() -> dict[str, Literal["computed"] | float]:
    return {"L1": "computed"}


class Expectations(Part):
    """always: invariants of safety. eventually: of liveness, ``computed`` or a number of seconds.
    sometimes: what must have been seen, else the run proves nothing (``vocabulary.SOMETIMES``).
    """

    always: tuple[str, ...] = tuple(name for name in INVARIANTS if name.startswith("S"))
    eventually: dict[str, Literal["computed"] | float] = Field(default_factory=_computed)
    sometimes: tuple[str, ...] = ()

    @field_validator("always", "eventually", "sometimes")
    @classmethod
    def _known(cls, names: Any, info: ValidationInfo) -> Any:
        letter = {"always": "S", "eventually": "L"}.get(info.field_name or "")
        allowed = [name for name in INVARIANTS if name[0] == letter] if letter else list(SOMETIMES)
        for name in names:
            if name not in allowed:
                raise ValueError(f"{name} is not known here{did_you_mean(name, allowed)}")
        return names


class Scenario(Part):
    """A whole file. ``windows``: failure windows of research/faults.md that it opens."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    hypothesis: str = Field(min_length=20)
    windows: tuple[Annotated[str, Field(pattern=r"^W\d\d$")], ...] = ()
    topology: Topology = Topology()
    workload: Workload
    faults: tuple[FaultPlan, ...] = ()
    expect: Expectations = Expectations()

    @model_validator(mode="before")
    @classmethod
    def _name_faults(cls, data: Any) -> Any:
        """A fault without a name is called after its fault and its place: ``kill-1``."""
        faults = data.get("faults") if isinstance(data, dict) else None
        if not isinstance(faults, list):
            return data
        named = [
            {"name": f"{item.get('fault')}-{n}"} | item if isinstance(item, dict) else item
            for n, item in enumerate(faults, start=1)
        ]
        return data | {"faults": named}

    @model_validator(mode="after")
    def _targets_exist(self) -> Self:
        names = [plan.name for plan in self.faults]
        for n, plan in enumerate(self.faults):
            where = f"faults.{n}.target: {', '.join(plan.target)}"
            if names.count(plan.name) > 1:
                raise ValueError(f"faults.{n}.name: {plan.name} stands twice")
            if plan.sort not in FAULTS[plan.fault].sorts:
                sorts = " or ".join(f"{sort.value}" for sort in FAULTS[plan.fault].sorts)
                raise ValueError(f"{where}: {plan.fault} strikes {sorts}")
            if plan.sort is FaultSort.SERVER and FAULTS[plan.fault].servers.isdisjoint(plan.target):
                servers = " or ".join(sorted(FAULTS[plan.fault].servers))
                raise ValueError(f"{where}: {plan.fault} is a fault of {servers}")
            found = plan.candidates(self.topology)
            if len(found) < (plan.pick or 1):
                raise ValueError(f"{where}: {len(found)} targets match, {plan.pick or 1} needed")
        return self

    @property
    def document(self) -> dict[str, Any]:
        """The scenario as plain JSON values; ``Scenario.model_validate`` reads it back."""
        return self.model_dump(mode="json", by_alias=True)

    def settings(self, **more: Any) -> Settings:
        """Settings of a process: defaults, the overrides of this file, then ``more``.

        Reads no environment.
        """
        return DeclaredSettings(**(self.topology.settings | more))


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys silently; here they are an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the signature is the library's
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse(text: str, source: str) -> Scenario:
    """A scenario out of YAML text; ``source`` is named in errors.

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
    """The scenario of a file, whose name must be its id.

    Raises:
        ScenarioError: it cannot be used.
        OSError: it cannot be opened.
    """
    scenario = parse(path.read_text(encoding="utf-8"), str(path))
    if scenario.id != path.stem:
        raise ScenarioError(f"{path}: id: {scenario.id} must be the name of the file, {path.stem}")
    return scenario


def names() -> tuple[str, ...]:
    """Ids of the scenarios that come along, ``calm`` first (it is the control)."""
    return tuple(sorted((p.stem for p in SCENARIOS.glob("*.yaml")), key=lambda n: (n != "calm", n)))


def find(name: str) -> Scenario:
    """A scenario that comes along by its id, or any other by the path of its file.

    Raises:
        ScenarioError: there is none, or it cannot be used.
    """
    if re.search(r"[./\\]", name):
        return load(Path(name))
    if name not in names():
        raise ScenarioError(f"no scenario {name!r}{did_you_mean(name, names())}")
    return load(SCENARIOS / f"{name}.yaml")
