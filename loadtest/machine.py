"""Describe the machine of a measurement and its load beforehand."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Self

BUSY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Machine:
    """``load_average``: 1-minute load average before the measurement started."""

    cores: int
    load_average: float
    python: str
    system: str

    @classmethod
    def now(cls) -> Self:
        """Return this machine."""
        return cls(
            cores=len(os.sched_getaffinity(0)),
            load_average=round(os.getloadavg()[0], 2),
            python=platform.python_version(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
        )

    @property
    def busy(self) -> bool:
        """Whether other load exceeded a quarter of the cores."""
        return self.load_average > BUSY_SHARE * self.cores

    def warning(self) -> str | None:
        """Return a warning about figures from a busy machine; None on an idle one."""
        if not self.busy:
            return None
        return (
            f"the machine was busy before the run began (load average {self.load_average:g} on "
            f"{self.cores} cores): the figures are not those of an idle one"
        )
