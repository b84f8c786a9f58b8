"""Every mutant fits the sources as they are now, and changes only what it says."""

from __future__ import annotations

import compileall
import filecmp
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import scenario
from chaos.mutants import MUTANTS, PACKAGES, Edit, Mutant, MutantError, find, plant
from chaos.vocabulary import INVARIANTS

SOURCES = Path(__file__).parent.parent


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_sources_and_compiles(mutant: Mutant, tmp_path: Path) -> None:
    tree = plant(mutant, SOURCES, tmp_path / "tree")
    changed = {
        str(path.relative_to(tree))
        for package in PACKAGES
        for path in (tree / package).rglob("*.py")
        if not filecmp.cmp(path, SOURCES / path.relative_to(tree), shallow=False)
    }
    assert changed == {edit.file for edit in mutant.edits}
    assert compileall.compile_dir(tree, quiet=1)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_a_mutant_names_its_scenario_and_invariants_that_this_judges(mutant: Mutant) -> None:
    judged = scenario.find(mutant.scenario).expect
    assert mutant.killers
    assert set(mutant.killers) <= INVARIANTS.keys()
    assert set(mutant.killers) <= {*judged.always, *judged.eventually}


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
