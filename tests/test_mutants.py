"""Every mutant fits the sources as they are now, and every guard has one or a reason why not."""

from __future__ import annotations

import filecmp
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import scenario
from chaos.live.hunt import Hunted
from chaos.mutants import (
    MUTANTS,
    PACKAGES,
    UNPLANTED,
    Edit,
    Mutant,
    MutantError,
    catalogue,
    find,
    plant,
)
from chaos.vocabulary import INVARIANTS

SOURCES = Path(__file__).parent.parent
# The files whose guards the catalogue goes through, one by one.
GUARDED = {
    *(f"system/{name}.py" for name in ("statements", "scans", "store", "submission")),
    *(f"system/{name}.py" for name in ("queue", "scheduler", "loops", "database")),
    *(f"system/{name}.py" for name in ("worker", "intake", "slots", "attempts", "finisher")),
    "system/handlers/transaction.py",
    *(f"system/api/{name}.py" for name in ("submits", "coalescer", "actions", "readiness")),
}
EACH = pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)


@EACH
def test_a_mutant_fits_the_sources_and_compiles(mutant: Mutant) -> None:
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        assert edit.old != edit.new
        text = texts.get(edit.file) or (SOURCES / edit.file).read_text(encoding="utf-8")
        assert text.count(edit.old) == 1, f"{edit.file}: {edit.old}"
        texts[edit.file] = text.replace(edit.old, edit.new)
    for file, text in texts.items():
        compile(text, file, "exec")


@EACH
def test_a_mutant_names_its_scenario_and_invariants_that_this_judges(mutant: Mutant) -> None:
    judged = scenario.find(mutant.scenario).expect
    assert mutant.killers
    assert mutant.guard
    assert mutant.what
    assert mutant.runs_max >= 1
    assert set(mutant.killers) <= INVARIANTS.keys()
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
    mutant = replace(known, edits=(Edit("system/lifecycle.py", old, ""),))
    with pytest.raises(MutantError, match=r"does not fit system/lifecycle\.py any more"):
        plant(mutant, SOURCES, tmp_path / "tree")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    mutant = replace(find("finish_without_epoch"), edits=(Edit("system/gone.py", "x", "y"),))
    with pytest.raises(MutantError, match=r"system/gone\.py"):
        plant(mutant, SOURCES, tmp_path / "tree")


def test_an_unknown_mutant_is_told_with_those_there_are() -> None:
    with pytest.raises(MutantError, match="finish_without_epoch"):
        find("nonsense")


FATES: Mapping[str, tuple[Hunted, bool]] = {
    "S1 S8": (Hunted(find("finish_without_epoch"), 1, 20.0, killers=("S1", "S8")), True),
    "SURVIVED": (Hunted(find("finish_without_epoch"), 3, 60.0), False),
    "SURVIVED (S4)": (Hunted(find("finish_without_epoch"), 3, 60.0, others=("S4",)), False),
    "SURVIVED (unknown)": (Hunted(find("finish_without_epoch"), 3, 60.0, doubts="x"), False),
    "not judged": (Hunted(find("finish_without_epoch"), 3, 60.0, trouble="no port"), False),
    "covered": (Hunted(find("finish_without_state"), 1, 20.0), True),
}


@pytest.mark.parametrize("told", FATES)
def test_the_table_says_what_became_of_a_mutant(told: str) -> None:
    hunted, as_said = FATES[told]
    assert hunted.outcome == told
    assert hunted.as_said is as_said
    assert told in hunted.row()


def test_a_hunt_kills_a_mutant_and_prints_its_row(tmp_path: Path) -> None:
    runs = str(tmp_path / "runs")
    command = [sys.executable, "-m", "chaos", "mutants", "finish_without_ledger"]
    hunt = subprocess.run(
        [*command, "--runs-directory", runs],
        cwd=SOURCES,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert hunt.returncode == 0, hunt.stdout
    assert re.search(r"^finish_without_ledger +crowded +S11 +1 +\d+$", hunt.stdout, re.MULTILINE)
    assert "1 of 1 killed" in hunt.stdout


def test_an_unknown_mutant_ends_the_command_with_2() -> None:
    command = [sys.executable, "-m", "chaos", "mutants", "finish_without_leger"]
    hunt = subprocess.run(
        command, cwd=SOURCES, capture_output=True, text=True, timeout=60, check=False
    )
    assert hunt.returncode == 2
    assert "finish_without_ledger" in hunt.stderr
    assert "Traceback" not in hunt.stderr
