"""Every mutant matches the current sources, and every guard has a mutant or a reason."""

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
    UNKNOWN,
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
# The files whose guards the catalogue must cover.
GUARDED = {
    f"system/holdfast/{name}.py"
    for name in (
        *(f"store/{name}" for name in ("transitions", "single", "scans", "store", "submit")),
        *("store/resend", "store/driver", "store/database", "queue/hints", "runtime/supervision"),
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
    """Return the changed text of each file of a mutant."""
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        assert edit.old != edit.new
        text = texts.get(edit.file) or (SOURCES / edit.file).read_text(encoding="utf-8")
        assert text.count(edit.old) == 1, f"{edit.file}: {edit.old}"
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


@EACH
def test_mutant_matches_the_sources_and_compiles(mutant: Mutant) -> None:
    for file, text in planted(mutant).items():
        compile(text, file, "exec")


def test_mutants_use_only_defined_names(tmp_path: Path) -> None:
    """``cancel_in_transaction`` once used a removed import, so it only made attempts fail."""
    for mutant in MUTANTS.values():
        for file, text in planted(mutant).items():
            path = tmp_path / mutant.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    names = "F821,F822,F823"
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", names]
    result = subprocess.run([*ruff, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@EACH
def test_mutant_names_a_scenario_that_judges_its_killers(mutant: Mutant) -> None:
    assert mutant.killers
    assert mutant.guard
    assert mutant.what
    assert mutant.runs_max >= 1
    assert mutant.of_harness or UNKNOWN not in mutant.killers
    laws = set(mutant.killers) - {UNKNOWN}
    assert laws <= INVARIANTS.keys()
    judged = scenario.find(mutant.scenario).expect
    assert laws <= {*judged.always, *judged.eventually}


@EACH
def test_covered_mutant_has_a_pair_that_must_be_killed(mutant: Mutant) -> None:
    assert bool(mutant.covered_by) == bool(mutant.pair)
    if mutant.pair:
        pair = find(mutant.pair)
        assert not pair.covered_by
        assert {edit.file for edit in mutant.edits} <= {edit.file for edit in pair.edits}
        assert pair.edits != mutant.edits


def test_catalogue_covers_every_file_with_guards() -> None:
    named = {mutant.file for mutant in MUTANTS.values()} | {guard.file for guard in UNPLANTED}
    assert GUARDED - named == set()
    assert all((SOURCES / file).is_file() for file in named)


def test_guards_are_unique_in_the_catalogue() -> None:
    guards = [(guard.file, guard.guard) for guard in UNPLANTED]
    guards += [(mutant.file, mutant.guard) for mutant in MUTANTS.values()]
    assert len(set(guards)) == len(guards)


def test_unplanted_guard_has_a_reason_and_names_existing_tests() -> None:
    for guard in UNPLANTED:
        assert len(guard.why) > 10, guard
        for test in re.findall(r"tests/\w+(?:/\w+)*(?:\.py)?", guard.why):
            assert (SOURCES / test).exists(), f"{guard.guard}: {test}"


def test_harness_has_mutants_of_its_own() -> None:
    harness = [mutant for mutant in MUTANTS.values() if mutant.of_harness]
    assert len(harness) >= 20
    assert all(mutant.unlive for mutant in harness)


def test_catalogue_is_printed_completely() -> None:
    text = catalogue()
    assert all(f"{mutant.name}: " in text for mutant in MUTANTS.values())
    assert all(guard.why in text for guard in UNPLANTED)


def test_planting_changes_only_the_edited_files(tmp_path: Path) -> None:
    mutant = find("claim_given_up_orphans_kept")
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
def test_edit_that_does_not_match_exactly_once_is_refused(old: str, tmp_path: Path) -> None:
    known = find("finish_without_epoch")
    mutant = replace(known, edits=(Edit("system/holdfast/model/lifecycle.py", old, ""),))
    with pytest.raises(MutantError, match=r"does not match system/holdfast/model/lifecycle\.py"):
        plant(mutant, SOURCES, tmp_path / "tree")


def test_edit_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    mutant = replace(find("finish_without_epoch"), edits=(Edit("system/gone.py", "x", "y"),))
    with pytest.raises(MutantError, match=r"system/gone\.py"):
        plant(mutant, SOURCES, tmp_path / "tree")


def test_unknown_mutant_error_lists_the_known_ones() -> None:
    with pytest.raises(MutantError, match="finish_without_epoch"):
        find("nonsense")


def test_process_imports_all_packages_from_the_planted_tree(tmp_path: Path) -> None:
    """Otherwise processes would run without the mutant."""
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
