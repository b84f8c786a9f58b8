"""The result of one check of ``holdfast doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. ``bad`` breaks a guarantee, ``warning`` weakens one."""

    grade: Literal["ok", "warning", "bad"]
    subject: str
    detail: str
