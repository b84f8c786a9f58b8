"""Every mutant fits the sources as they are now, and every guard has one or a reason why not."""

from __future__ import annotations

import filecmp
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.checker.invariants.registry import INVARIANTS
from chaos.mutants import (
    MUTANTS,
    PACKAGES,
    UNPLANTED,
    Edit,
    Mutant,
    MutantError,
    catalogue,
    find,
    import_path,
    plant,
)
from chaos.scenario import scenario

SOURCES = Path(__file__).parents[2]
# The files whose guards the catalogue goes through, one by one.
GUARDED = {
    f"system/holdfast/{name}.py"
    for name in (
        *(f"store/{name}" for name in ("transitions", "scans", "store", "submit", "resend")),
        *("store/database", "queue/hints", "runtime/supervision"),
        *("scheduler/scheduler", "scheduler/failure_detector"),
        *(f"worker/{name}" for name in ("worker", "claimer", "executor", "slot_pool")),
        *("worker/attempt", "worker/finisher", "handlers/transactions"),
        *(f"instrumentation/{name}" for name in ("tasks", "scheduler", "worker", "attempt_span")),
        "telemetry/export",
        *(f"api/{name}" for name in ("submit", "coalescer", "cancel_retry", "readiness")),
    )
}
EACH = pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)


def planted(mutant: Mutant) -> dict[str, str]:
    """The text of each file that it changes."""
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        assert edit.old != edit.new
        text = texts.get(edit.file) or (SOURCES / edit.file).read_text(encoding="utf-8")
        assert text.count(edit.old) == 1, f"{edit.file}: {edit.old}"
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


@EACH
def test_a_mutant_fits_the_sources_and_compiles(mutant: Mutant) -> None:
    for file, text in planted(mutant).items():
        compile(text, file, "exec")


def test_no_mutant_uses_a_name_that_is_not_there(tmp_path: Path) -> None:
    """``cancel_in_transaction`` did, once an import had gone: it only made attempts fail."""
    for mutant in MUTANTS.values():
        for file, text in planted(mutant).items():
            path = tmp_path / mutant.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    names = "F821,F822,F823"
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", names]
    told = subprocess.run([*ruff, str(tmp_path)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


@EACH
def test_a_mutant_names_its_scenario_and_invariants_that_this_judges(mutant: Mutant) -> None:
    assert mutant.killers
    assert mutant.guard
    assert mutant.what
    assert mutant.runs_max >= 1
    assert set(mutant.killers) <= INVARIANTS.keys()
    judged = scenario.find(mutant.scenario).expect
    assert set(mutant.killers) <= {*judged.always, *judged.eventually}


@EACH
def test_a_covered_mutant_has_a_pair_that_must_be_killed(mutant: Mutant) -> None:
    assert bool(mutant.covered_by) == bool(mutant.pair)
    if mutant.pair:
        pair = find(mutant.pair)
        assert not pair.covered_by
        assert {edit.file for edit in mutant.edits} <= {edit.file for edit in pair.edits}
        assert pair.edits != mutant.edits


def test_the_catalogue_goes_through_every_file_that_has_guards() -> None:
    named = {mutant.file for mutant in MUTANTS.values()} | {guard.file for guard in UNPLANTED}
    assert GUARDED - named == set()
    assert all((SOURCES / file).is_file() for file in named)


def test_a_guard_stands_once_in_the_catalogue() -> None:
    guards = [(guard.file, guard.guard) for guard in UNPLANTED]
    guards += [(mutant.file, mutant.guard) for mutant in MUTANTS.values()]
    assert len(set(guards)) == len(guards)


def test_a_guard_without_a_mutant_says_why_and_names_only_tests_that_there_are() -> None:
    for guard in UNPLANTED:
        assert len(guard.why) > 10, guard
        for test in re.findall(r"tests/\w+(?:/\w+)*(?:\.py)?", guard.why):
            assert (SOURCES / test).exists(), f"{guard.guard}: {test}"


def test_the_catalogue_is_printed_whole() -> None:
    text = catalogue()
    assert all(f"{mutant.name}: " in text for mutant in MUTANTS.values())
    assert all(guard.why in text for guard in UNPLANTED)


def test_planting_changes_the_files_of_the_edits_and_nothing_else(tmp_path: Path) -> None:
    mutant = find("claim_given_up_strays_kept")
    tree = plant(mutant, SOURCES, tmp_path / "tree")
    changed = {
        str(path.relative_to(tree))
        for package in PACKAGES
        for path in (tree / package).rglob("*.py")
        if not filecmp.cmp(path, SOURCES / path.relative_to(tree), shallow=False)
    }
    assert changed == {edit.file for edit in mutant.edits}
    assert len(changed) == 2


@pytest.mark.parametrize("old", ["no such text anywhere", "import"])
def test_a_text_that_is_not_there_exactly_once_is_refused(old: str, tmp_path: Path) -> None:
    known = find("finish_without_epoch")
    mutant = replace(known, edits=(Edit("system/holdfast/model/lifecycle.py", old, ""),))
    with pytest.raises(MutantError, match=r"does not match system/holdfast/model/lifecycle\.py"):
        plant(mutant, SOURCES, tmp_path / "tree")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    mutant = replace(find("finish_without_epoch"), edits=(Edit("system/gone.py", "x", "y"),))
    with pytest.raises(MutantError, match=r"system/gone\.py"):
        plant(mutant, SOURCES, tmp_path / "tree")


def test_an_unknown_mutant_is_told_with_those_there_are() -> None:
    with pytest.raises(MutantError, match="finish_without_epoch"):
        find("nonsense")


def test_a_process_imports_all_packages_from_the_planted_tree(tmp_path: Path) -> None:
    """Otherwise mutants would be planted where no process runs them."""
    tree = plant(find("finish_without_epoch"), SOURCES, tmp_path / "tree")
    script = (
        "import chaos, holdfast, observability;"
        "print(chaos.__file__, holdfast.__file__, observability.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": import_path(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [Path(file).is_relative_to(tree) for file in done.stdout.split()] == [True] * 3
