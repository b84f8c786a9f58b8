"""What all simulated runs of one OS process share: its real servers and its directory."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.load import EFFECTS
from chaos.run_spec import sources_commit
from chaos.simulation.postgres import Postgres
from chaos.simulation.valkey import Valkey
from system.guardian import Guardian
from system.machine import temporary_directory

# What libraries try to import again and again, in vain: each time the whole path is searched.
_SOUGHT = ("sniffio",)


@dataclass(frozen=True, slots=True)
class Foundation:
    """One Postgres and one Valkey; they outlive the runs, and forget between them.

    ``commit``: of the sources, if known.
    """

    directory: Path
    postgres: Postgres
    valkey: Valkey
    commit: str | None

    @classmethod
    @contextlib.contextmanager
    def laid(cls, apps: Sequence[str] = ()) -> Iterator[Foundation]:
        """Up inside the block; afterwards nothing of it is left, whatever happened."""
        for module in [*(f"chaos.tasks.{kind}" for kind in EFFECTS), *apps]:
            importlib.import_module(module)  # no import of a simulated process takes real time
        for name in _SOUGHT:
            if importlib.util.find_spec(name) is None:
                sys.modules[name] = None  # type: ignore[assignment]  # so it is said at once
        directory = temporary_directory("holdfast-simulation-")
        try:
            with Guardian() as guardian:
                guardian.own_directory(directory)
                with Postgres(guardian) as postgres, Valkey(guardian) as valkey:
                    yield cls(directory, postgres, valkey, sources_commit())
        finally:
            shutil.rmtree(directory, ignore_errors=True)
