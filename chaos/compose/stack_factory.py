"""What all runs of a suite in containers share: the images and a directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from chaos.compose.docker import command, long_command, require_docker
from chaos.compose.stack import ContainerStack
from chaos.live.stack_factory import StackSpec
from chaos.mutants import SOURCES, copy
from holdfast.devstack.host import temporary_directory
from holdfast.devstack.reaper import Reaper

# What system/Dockerfile copies into the image besides the packages.
_CONTEXT = ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", ".dockerignore")
_BUILD_SECONDS = 900.0


@dataclass(slots=True)
class ContainerStackFactory:
    """Makes the stacks of the compose arena. ``images``: by the sources they were built from."""

    reaper: Reaper
    directory: Path
    sources: Path
    images: dict[Path, str] = field(default_factory=dict)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[ContainerStackFactory]:
        """Build the image; all images are removed after the block (the build cache stays).

        Raises:
            DockerError: Docker is missing, or the image could not be built.
        """
        await asyncio.to_thread(require_docker)
        with Reaper() as reaper:
            directory = temporary_directory("holdfast-chaos-")
            reaper.own_directory(directory)
            sources = await asyncio.to_thread(copy, SOURCES, directory / "sources")
            factory = cls(reaper, directory, sources)
            try:
                await factory.image(sources)
                yield factory
            finally:
                await asyncio.shield(factory.remove_images())

    def stack(self, spec: StackSpec) -> ContainerStack:
        """Return the stack of one run, which is a compose project of its own."""
        return ContainerStack(spec, lambda: self.image(spec.sources))

    async def image(self, sources: Path) -> str:
        """Return the image of these sources; build it the first time."""
        if sources not in self.images:
            tag = f"holdfast-chaos:{os.getpid()}-{sources.name}"
            for name in _CONTEXT:
                shutil.copy(SOURCES / name, sources / name)
            argv = ["docker", "build", "--quiet", "--target", "chaos", "--tag", tag]
            argv += ["--file", str(sources / "system" / "Dockerfile"), str(sources)]
            await long_command(argv, timeout_seconds=_BUILD_SECONDS)
            self.images[sources] = tag
        return self.images[sources]

    async def remove_images(self) -> None:
        """Remove all images that were built."""
        for tag in self.images.values():
            await asyncio.to_thread(command, ["docker", "image", "rm", "--force", tag])
