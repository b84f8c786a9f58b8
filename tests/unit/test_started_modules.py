"""Modules that are started by name (``python -m``, entry points of containers) exist.

No import checks these names, so a moved module would be noticed only when a run starts it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = "holdfast|chaos|loadtest|observability"
SUFFIXES = {"", ".md", ".py", ".toml", ".yaml", ".yml"}
STARTED = [
    # python -m chaos.observers.sink; "-m", "chaos"; [python, -m, chaos.compose.socket_stats]
    re.compile(rf"""-m["',\s]+((?:{PACKAGES})(?:\.\w+)*)"""),
    # spawn(["loadtest.collector", ...]); --app chaos.tasks.ledger
    re.compile(r"""(?:\[["']|--app["',\s]+)((?:chaos|loadtest)(?:\.[a-z_]+)+)"""),
]
# The package in f"chaos.observers.{name}" after -m.
COMPUTED = re.compile(rf"""-m["',\s]+f"((?:{PACKAGES})(?:\.\w+)*)\.\{{""")


def names(*patterns: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield (file, module) for each match in the tracked files."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for file in tracked.stdout.splitlines():
        path = ROOT / file
        if path.suffix not in SUFFIXES or path == Path(__file__) or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        for pattern in patterns:
            for module in pattern.findall(text):
                yield file, module


def exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def has_program(package: str) -> bool:
    folder = ROOT / package.replace(".", "/")
    return any('__name__ == "__main__"' in file.read_text() for file in folder.glob("*.py"))


def test_modules_started_by_name_exist() -> None:
    found = set(names(*STARTED))
    assert ("docker-compose.yml", "chaos.observers.sink") in found
    assert ("loadtest/collector.py", "loadtest.collector") in found
    assert {(file, module) for file, module in found if not exists(module)} == set()


def test_packages_of_computed_module_names_hold_programs() -> None:
    found = set(names(COMPUTED))
    assert ("chaos/live/topology.py", "chaos.observers") in found
    assert {(file, package) for file, package in found if not has_program(package)} == set()
