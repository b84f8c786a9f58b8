"""The record that a condition of the environment was in force."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from chaos.history.spans import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What was seen of a condition (``topology.environment``) while the roles ran.

    ``name``: of ``chaos.scenario.conditions.CONDITIONS``. ``evidence``: what shows it
    (``chaos.checker.condition_doubts``), or ``error``: why nothing could be seen.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["condition"] = "condition"
    name: str
    at: float
    evidence: dict[str, Any] = field(default_factory=dict)
