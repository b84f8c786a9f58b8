"""Try each mutant in each tier, as far as the time allows."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import typer

from chaos.mutants import SOURCES, import_path, plant
from chaos.mutants.generated import GeneratedMutant
from chaos.run.generated.results import Results
from chaos.run.generated.trial import Fate, MutantTrial, TierRunner


@dataclass(frozen=True, slots=True)
class Campaign:
    """Tries ``mutants``, ``parallel`` at a time; ``hours``: starts no trial after that time."""

    mutants: Sequence[GeneratedMutant]
    tiers: Sequence[TierRunner]
    results: Results
    hours: float | None = None
    parallel: int = 1

    async def run(self) -> None:
        """Try what has no result yet.

        Raises:
            MutantError: the sources changed since the mutants were drawn.
        """
        todo = iter(self.mutants)
        ends = float("inf") if self.hours is None else time.monotonic() + self.hours * 3600

        async def work() -> None:
            for mutant in todo:
                missing = [t for t in self.tiers if not self.results.get(mutant.name, t.tier)]
                if missing:
                    await self._try(mutant, missing, ends)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.parallel):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _try(self, mutant: GeneratedMutant, tiers: Sequence[TierRunner], ends: float) -> None:
        with tempfile.TemporaryDirectory(prefix="holdfast-mutant-") as directory:
            tree = await asyncio.to_thread(plant, mutant, SOURCES, Path(directory) / "tree")
            error = await import_error(mutant, tree)
            for tier in tiers:
                if time.monotonic() >= ends:
                    return
                if error:
                    trial = MutantTrial(
                        mutant=mutant.name, tier=tier.tier, fate=Fate.DOES_NOT_BUILD, by=error
                    )
                else:
                    trial = await tier.attempt(mutant, tree)
                self.results.add(trial)
                typer.echo(
                    f"{mutant.name} {mutant.file.removeprefix('system/holdfast/')}:{mutant.line} "
                    f"{mutant.operator}: {trial.tier}: {trial.fate} {trial.by}".rstrip()
                    + f" ({trial.tried} tried, {trial.seconds:.0f} s)"
                )


async def import_error(mutant: GeneratedMutant, tree: Path) -> str:
    """Import the changed module in a process of its own; return the last line of its error."""
    module = ".".join(PurePath(mutant.file).relative_to("system").with_suffix("").parts)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import {module.removesuffix('.__init__')}",
        cwd=tree,
        env=os.environ | {"PYTHONPATH": import_path(tree)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    if process.returncode == 0:
        return ""
    return (errors.decode(errors="replace").strip().splitlines() or ["no error message"])[-1]
