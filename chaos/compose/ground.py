"""What all runs of a suite in containers share: one image, and a directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chaos.compose.docker import command, long_command, require_docker
from chaos.compose.stack import Stack
from chaos.live.ground import Site
from chaos.mutants import SOURCES, copy
from system.guardian import Reaper
from system.machine import temporary_directory

# What the image is made of, besides the packages (system/Dockerfile).
_CONTEXT = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", ".dockerignore")
_BUILD_SECONDS = 900.0


@dataclass(slots=True)
class Containers:
    """The ground of the compose arena. ``images``: by the sources they were made from."""

    reaper: Reaper
    directory: Path
    sources: Path
    images: dict[Path, str] = field(default_factory=dict)

    @property
    def arena(self) -> Literal["compose"]:
        """Its name."""
        return "compose"

    @classmethod
    @contextlib.asynccontextmanager
    async def laid(cls) -> AsyncIterator[Containers]:
        """Up inside the block; its images are removed after it (what they are cached from stays).

        Raises:
            DockerError: there is no Docker, or the image could not be built.
        """
        await asyncio.to_thread(require_docker)
        with Reaper() as reaper:
            directory = temporary_directory("holdfast-chaos-")
            reaper.own_directory(directory)
            sources = await asyncio.to_thread(copy, SOURCES, directory / "sources")
            ground = cls(reaper, directory, sources)
            try:
                await ground.image(sources)
                yield ground
            finally:
                await asyncio.shield(ground.forget())

    def stack(self, site: Site) -> Stack:
        """The stack of one run, a compose project of its own."""
        return Stack(site, lambda: self.image(site.sources or self.sources))

    async def image(self, sources: Path) -> str:
        """The image made from these packages; built where there is none yet."""
        if sources not in self.images:
            tag = f"holdfast-chaos:{os.getpid()}-{sources.name}"
            for name in _CONTEXT:
                shutil.copy(SOURCES / name, sources / name)
            argv = ["docker", "build", "--quiet", "--target", "chaos", "--tag", tag]
            argv += ["--file", str(sources / "system" / "Dockerfile"), str(sources)]
            await long_command(argv, timeout_seconds=_BUILD_SECONDS)
            self.images[sources] = tag
        return self.images[sources]

    async def forget(self) -> None:
        """Remove the images again."""
        for tag in self.images.values():
            await asyncio.to_thread(command, ["docker", "image", "rm", "--force", tag])
