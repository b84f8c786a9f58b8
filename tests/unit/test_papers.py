"""The top-level documents name only existing files, windows, invariants and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos.scenario import scenario as scenarios

ROOT = Path(__file__).parents[2]
PAPERS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "GLOSSARY.md",
    "loadtest/README.md",
    "observability/README.md",
    "system/README.md",
    "system/examples/README.md",
)
# Folders at which a path in a text may start.
STARTS = (
    ROOT,
    ROOT / "system" / "holdfast",
    ROOT / "chaos",
    ROOT / "chaos" / "simulation",
    ROOT / "loadtest",
    ROOT / "observability",
)

EACH = pytest.mark.parametrize("paper", PAPERS)


@EACH
def test_named_files_and_folders_exist(paper: str) -> None:
    text = (ROOT / paper).read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_.][\w.-]*(?:/[\w.-]+)*(?:/|\.(?:py|md|ya?ml)))`", text))
    # A file may be named without its folder after another file of that folder.
    folders = {*STARTS, *(start / Path(path).parent for path in named for start in STARTS)}
    missing = {path for path in named if not any((place / path).exists() for place in folders)}
    assert missing == set()


@EACH
def test_links_resolve(paper: str) -> None:
    text = (ROOT / paper).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for link in re.findall(r"\]\((?!https://)([^)]+)\)", text):
        path, _, heading = link.partition("#")
        assert (ROOT / paper).parent.joinpath(path).exists(), link
        assert not heading or path or heading in headings, link


def test_glossary_defines_every_window_and_invariant_of_scenarios() -> None:
    defined = set(
        re.findall(r"^\| ([WSL]\d+) \|", (ROOT / "GLOSSARY.md").read_text(), re.MULTILINE)
    )
    for found in map(scenarios.find, scenarios.names()):
        named = {*found.windows, *found.expect.always, *found.expect.eventually}
        assert named <= defined, found.id


def test_glossary_names_only_scenarios_that_open_the_window() -> None:
    rows = re.findall(
        r"^\| (W\d+) \|.*\| ([^|]*) \|$", (ROOT / "GLOSSARY.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 44
    for window, shown in rows:
        for name in set(re.findall(r"`(\w+)`", shown)) & {*scenarios.names()}:
            assert window in scenarios.find(name).windows, (window, name)
