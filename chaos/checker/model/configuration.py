"""The settings that a task's fate depends on, with their documented defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Settings of the processes (``holdfast settings`` documents them)."""

    max_attempts: int = 5
    max_losses: int = 3
    attempt_timeout_seconds: float = 300.0
    timeout_grace_seconds: float = 10.0
    unknown_name_seconds: float = 5.0
    unknown_name_max_seconds: float = 300.0
    statement_timeout_seconds: float = 10.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the configuration of processes that were given these settings."""
        names = [each.name for each in fields(cls)]
        return cls(**{name: settings[name] for name in names if name in settings})
