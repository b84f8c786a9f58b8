"""What works with the core dependencies only, without any of the extras."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = {"pydantic", "sqlalchemy", "httpx", "orjson", "typer", "opentelemetry-api"}
# Every module that is neither ours, nor the standard library's, nor of a core dependency is absent.
BLOCK = """
import sys
allowed = {allowed!r} | sys.stdlib_module_names

class Absent:
    def find_spec(self, name, path=None, target=None):
        parts = name.split(".")
        if name.startswith("_sysconfigdata"):  # the standard library's, named by platform
            return
        if not any(".".join(parts[:n]) in allowed for n in range(1, len(parts) + 1)):
            if not any(each.startswith(name + ".") for each in allowed):
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
PUBLIC = """
import holdfast
assert not any(name.startswith(("sqlalchemy", "pydantic")) for name in sys.modules)
for name in holdfast.__all__:
    getattr(holdfast, name)
import holdfast.handlers
print({name for name in sys.modules})
"""
COMMAND = """
sys.argv = ["holdfast", *{arguments!r}]
from holdfast.__main__ import main
main()
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return normal(found[0])


def closure(wanted: set[str]) -> set[str]:
    """These distributions and what they require without extras."""
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform or Python
        wanted |= {named(each) for each in requires if "extra ==" not in each}
    return found


def modules_of(distributions: set[str]) -> set[str]:
    """Their importable names; of namespace packages the parts below the shared name."""
    modules = {"holdfast"}
    for name in distributions:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            parts = file.with_suffix("").parts
            if file.suffix in {".py", ".so"}:
                depth = 2 if parts[0] == "opentelemetry" else 1
                modules.add(".".join(part.split(".")[0] for part in parts[:depth]))
    return modules


def python(code: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    allowed = modules_of(closure({*CORE}))
    assert "opentelemetry.sdk" not in allowed
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(allowed=allowed) + code],
        env={**clean, "PYTHONPATH": str(ROOT / "system")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_core_dependencies_are_exactly_these() -> None:
    assert {named(each) for each in PROJECT["dependencies"]} == CORE


def test_each_extra_holds_the_smaller_one() -> None:
    extras = PROJECT["optional-dependencies"]
    assert "holdfast[server]" in extras["embedded"]
    assert "holdfast[embedded]" in extras["dev"]


def test_every_public_name_needs_only_the_core() -> None:
    done = python(PUBLIC)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert "sqlalchemy" in loaded
    assert not loaded & {"fastapi", "starlette", "uvicorn", "alembic", "redis", "asyncpg"}
    assert "holdfast.settings" in ast.literal_eval(done.stdout)


@pytest.mark.parametrize("arguments", [["--help"], ["worker", "--help"], ["settings"]], ids=str)
def test_the_command_describes_itself_without_extras(arguments: list[str]) -> None:
    done = python(COMMAND.format(arguments=arguments))
    assert (done.returncode, done.stderr) == (0, "")
    assert "holdfast" in done.stdout.lower()


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        *(("server", [name]) for name in ("api", "scheduler", "worker", "migrate", "doctor")),
        ("server", ["trace", "00000000-0000-0000-0000-000000000000"]),
        *(("embedded", [name]) for name in ("up", "mailcatcher")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_without_its_extra_names_it_in_one_line(extra: str, arguments: list[str]) -> None:
    done = python(COMMAND.format(arguments=arguments))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("holdfast: ")
    assert line.endswith(f"pip install 'holdfast[{extra}]'")
