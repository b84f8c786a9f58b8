"""Build a tiny Go module from a directory that acts as the module proxy."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.devstack.go_build import GoBuildError, GoModule, built

PATH = "example.com/tiny"
GO_MOD = f"module {PATH}\n\ngo 1.21\n"
# Without fmt, which would compile much of the standard library.
MAIN = """package main

import "os"

var release string

func main() { os.Stdout.WriteString("tiny " + release + " " + os.Args[1]) }
"""
BUILD_IN_PROCESS = """
import json, sys
from pathlib import Path
from holdfast.devstack.go_build import GoModule, built
wanted = json.loads(sys.argv[1])
built(GoModule(**wanted | {"oldest_go": tuple(wanted["oldest_go"])}), Path(sys.argv[2]))
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GoModule:
    files = {"go.mod": GO_MOD, "cmd/tiny/main.go": MAIN}
    versions = tmp_path / "proxy" / PATH / "@v"
    versions.mkdir(parents=True)
    (versions / "v1.0.0.mod").write_text(GO_MOD)
    (versions / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    with zipfile.ZipFile(versions / "v1.0.0.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{PATH}@v1.0.0/{name}", text)
    monkeypatch.setenv("GOPROXY", (tmp_path / "proxy").as_uri())
    return GoModule(
        title="Tiny",
        path=PATH,
        version="v1.0.0",
        checksum=_checksum({f"{PATH}@v1.0.0/{name}": text for name, text in files.items()}),
        commands={"tiny": "./cmd/tiny"},
        release="1.0.0",
        stamp="main.release",
        oldest_go=(1, 21),
        takes="some seconds",
    )


def _checksum(files: dict[str, str]) -> str:
    """Return the hash as in go.sum: over the sorted list of the files' hashes."""
    lines = (
        f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
        for name, text in sorted(files.items())
    )
    digest = hashlib.sha256("".join(lines).encode()).digest()
    return f"h1:{base64.b64encode(digest).decode()}"


@pytest.mark.stack
def test_program_is_built_once_and_leaves_nothing_else(
    tiny: GoModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    left_over = cache / "tiny-build.killed"
    left_over.mkdir(parents=True)
    program = built(tiny, cache)["tiny"]
    assert "building Tiny 1.0.0 (once, some seconds)" in capsys.readouterr().err
    said = subprocess.run([program, "hello"], capture_output=True, text=True, check=True).stdout
    assert said == "tiny 1.0.0 hello"
    assert {path.name for path in cache.iterdir()} == {program.name, "tiny.lock"}
    before = program.stat().st_ino
    assert built(tiny, cache)["tiny"].stat().st_ino == before
    assert capsys.readouterr().err == ""


@pytest.mark.stack
def test_concurrent_builds_build_once(tiny: GoModule, tmp_path: Path) -> None:
    wanted = {name: getattr(tiny, name) for name in tiny.__dataclass_fields__}
    argv = [sys.executable, "-c", BUILD_IN_PROCESS, json.dumps(wanted), str(tmp_path / "cache")]
    root = Path(__file__).parents[2]
    both = [
        subprocess.Popen(argv, cwd=root, stderr=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    output = "".join(process.communicate()[1] for process in both)
    assert [process.returncode for process in both] == [0, 0], output
    assert output.count("building Tiny 1.0.0 (once") == 1


def test_content_with_wrong_checksum_is_not_built(tiny: GoModule, tmp_path: Path) -> None:
    other = replace(tiny, checksum="h1:bm90IHRoaXMgb25l")
    with pytest.raises(GoBuildError, match="expected h1:bm90"):
        built(other, tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"tiny.lock"}


def test_build_failure_shows_the_output_of_the_tool(tiny: GoModule, tmp_path: Path) -> None:
    with pytest.raises(GoBuildError, match=r"(?s)building tiny failed .*cmd/nothing"):
        built(replace(tiny, commands={"tiny": "./cmd/nothing"}), tmp_path / "cache")


@pytest.mark.stack
def test_program_reporting_another_release_is_not_kept(tiny: GoModule, tmp_path: Path) -> None:
    with pytest.raises(GoBuildError, match="it reports 'tiny  --version'"):
        built(replace(tiny, stamp="main.other"), tmp_path / "cache")


def test_unwritable_cache_is_one_clear_error(tiny: GoModule, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GoBuildError, match="cannot build Tiny in"):
        built(tiny, tmp_path / "file" / "cache")
