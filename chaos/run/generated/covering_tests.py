"""Which tests of the product execute which of its lines."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import fmean

import typer
from pydantic import TypeAdapter

from chaos.errors import ChaosError
from chaos.mutants import SOURCES
from chaos.mutants.generated.probes import Lines
from chaos.run.generated import executed_lines
from chaos.run.generated.pytest_run import junit_key, run_pytest

_FOLDER_SECONDS_MAX = 1800.0
# What imports the testbed tests that, and not the product.
_OF_THE_TESTBED = re.compile(
    r"^\s*(?:from|import) (?:chaos|loadtest|observability)\b", re.MULTILINE
)
_PHASE = re.compile(r"\|(?:setup|run|teardown)$")


class CleanTestsFail(ChaosError):
    """The tests do not pass on the sources without a mutant."""


@dataclass(frozen=True, slots=True)
class CoveringTest:
    """A test that passes without a mutant. ``node``: its id; ``lines``: of the product, by file."""

    node: str
    seconds: float
    lines: dict[str, list[int]]

    @property
    def file(self) -> str:
        """The file of the test."""
        return self.node.partition("::")[0]


_ADAPTER: TypeAdapter[list[CoveringTest]] = TypeAdapter(list[CoveringTest])


async def covering_tests() -> list[CoveringTest]:
    """Return all unit and server tests of the product; measure those that the cache lacks.

    Raises:
        CleanTestsFail: the tests of a folder fail, all of them, or hang.
    """
    found: list[CoveringTest] = []
    for folder, files in groupby(_files(), key=lambda file: str(Path(file).parent)):
        sources = executed_lines.digest(SOURCES, ("system", "tests/support", folder))
        kept = executed_lines.CACHE / f"{folder}-{sources}.json"
        if not kept.exists():
            typer.echo(f"measuring which lines {folder} executes ...")
            measured = await _measure(list(files))
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(_ADAPTER.dump_json(measured))
        found += _ADAPTER.validate_json(kept.read_bytes())
    return found


def choose(tests: Iterable[CoveringTest], probes: Lines, seconds: float) -> list[CoveringTest]:
    """Return the tests that execute a probe, quick files first, of about ``seconds`` in total."""
    covering = [test for test in tests if executed_lines.executes(test.lines, probes)]
    covering.sort(key=attrgetter("file"))
    files = [list(group) for _, group in groupby(covering, key=attrgetter("file"))]
    files.sort(key=lambda group: fmean(test.seconds for test in group))
    chosen: list[CoveringTest] = []
    for test in (t for group in files for t in sorted(group, key=attrgetter("seconds"))):
        if chosen and seconds < test.seconds:
            continue
        seconds -= test.seconds
        chosen.append(test)
    return chosen


def complete(tree: Path) -> None:
    """Add to a tree of packages what the tests need besides."""
    for path in SOURCES.iterdir():
        if path.name.startswith(".") or (tree / path.name).exists():
            continue
        if path.is_dir():
            shutil.copytree(path, tree / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, tree / path.name)


def _files() -> list[str]:
    """Return the files of tests of the product, by folder."""
    return [
        str(path.relative_to(SOURCES))
        for path in sorted((SOURCES / "tests").glob("*/test_*.py"))
        if not _OF_THE_TESTBED.search(path.read_text(encoding="utf-8"))
    ]


async def _measure(files: Sequence[str]) -> list[CoveringTest]:
    with tempfile.TemporaryDirectory(prefix="holdfast-covering-") as directory:
        scratch = Path(directory)
        tree, data = scratch / "tree", scratch / "coverage"
        tree.mkdir()
        complete(tree)
        settings = executed_lines.settings_file(scratch)
        options = ["--cov", f"--cov-config={settings}", "--cov-context=test", "--cov-report="]
        report = await run_pytest(
            tree, [*options, *files], scratch, _FOLDER_SECONDS_MAX, COVERAGE_FILE=str(data)
        )
        passed = {test.key: test.seconds for test in report.tests if not test.problem}
        if report.timed_out or (report.failed and not passed):
            raise CleanTestsFail(
                f"Without a mutant these tests fail or hang; run them first: {' '.join(files)}"
            )
        lines: dict[str, dict[str, set[int]]] = {}
        for context, executed in executed_lines.read_by_context(data, tree).items():
            node = lines.setdefault(_PHASE.sub("", context), {})
            for file, numbers in executed.items():
                node.setdefault(file, set()).update(numbers)
        return [
            CoveringTest(
                node, passed[junit_key(node)], {f: sorted(n) for f, n in executed_of.items()}
            )
            for node, executed_of in lines.items()
            if junit_key(node) in passed
        ]
