"""The real servers and the directory that all simulated runs of one OS process share."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.run.spec import sources_commit
from chaos.scenario.operations import EFFECTS
from chaos.simulation.postgres import SharedPostgres
from chaos.simulation.valkey import SharedValkey
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper

# Optional modules that libraries try to import repeatedly; each failure searches the whole path.
_SOUGHT = ("sniffio",)


@dataclass(frozen=True, slots=True)
class SharedServers:
    """One Postgres and one Valkey, which outlive the runs and are reset between them.

    ``commit``: the commit of the sources, if known.
    """

    directory: Path
    postgres: SharedPostgres
    valkey: SharedValkey
    commit: str | None

    @classmethod
    @contextlib.contextmanager
    def open(cls, apps: Sequence[str] = ()) -> Iterator[SharedServers]:
        """Start the servers; stop and remove them when the block ends."""
        for module in [*(f"chaos.tasks.{kind}" for kind in EFFECTS), *apps]:
            importlib.import_module(module)  # imported here, so that simulated processes need not
        for name in _SOUGHT:
            if importlib.util.find_spec(name) is None:
                sys.modules[name] = None  # type: ignore[assignment]  # fails without a search
        directory = temporary_directory("holdfast-simulation-")
        try:
            with Reaper() as reaper:
                reaper.own_directory(directory)
                with SharedPostgres(reaper) as postgres, SharedValkey(reaper) as valkey:
                    yield cls(directory, postgres, valkey, sources_commit())
        finally:
            shutil.rmtree(directory, ignore_errors=True)
