"""Handlers of users in simulated runs: which are accepted, with which payloads."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.checker import bounds
from chaos.scenario import scenario as scenarios
from chaos.scenario.workload import generate
from chaos.simulation.environment.apps import AppError, beside, longest_backoff

HEAD = "from holdfast.handlers import Backoff, task\n"
GOOD = """
SIMULATED = {"resize": [{"width": 1}, {"width": 2}]}
@task("resize", backoff=Backoff(base_seconds=7, max_seconds=70))
async def resize(ctx, payload): ...
@task("tidy")
async def tidy(ctx, payload): ...
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def module(place: Path, name: str, text: str) -> str:
    (place / f"{name}.py").write_text(HEAD + text)
    return name


def test_user_handlers_get_a_share_of_the_tasks(place: Path) -> None:
    calm = scenarios.find("calm")
    beside_it = beside(calm, [module(place, "mine_good", GOOD)])
    names = Counter(
        op.request["name"] for op in generate(beside_it.workload, 1) if op.kind == "submit"
    )
    assert names["resize"] > 10
    assert names["tidy"] > 10
    assert names["chaos_ledger"] > names["resize"]
    widths = {
        op.request["payload"]["width"]
        for op in generate(beside_it.workload, 1)
        if op.kind == "submit" and op.request["name"] == "resize"
    }
    assert widths == {1, 2}


def test_without_user_handlers_operations_are_unchanged(place: Path) -> None:
    calm = scenarios.find("calm")
    assert beside(calm, []) is calm
    mixed = beside(calm, [module(place, "mine_too", GOOD)])
    old = {op.key: op for op in generate(calm.workload, 5) if op.kind == "submit"}
    new = {op.key: op for op in generate(mixed.workload, 5) if op.kind == "submit"}
    assert old.keys() == new.keys()
    same = [key for key in old if new[key].request["name"] == old[key].request["name"]]
    assert all(old[key] == new[key] for key in same)


def test_bound_includes_timeout_and_backoff_of_user_handlers(place: Path) -> None:
    name = module(place, "mine_slow", GOOD)
    calm = scenarios.find("calm")
    backoff = longest_backoff([name], 5)
    assert backoff is not None
    assert backoff.base_seconds == 7
    assert longest_backoff([], 5) is None
    longer = bounds.allowed(beside(calm, [name]), backoff).seconds
    assert longer > bounds.allowed(calm).seconds + 7


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("@task('p')\ndef p(ctx, payload): ...\n", "'p' is a plain function.*async def"),
        ("x = 1\n", "has no tasks"),
        ("raise RuntimeError('no')\n", "cannot be imported: RuntimeError: no"),
        (
            "@task('p')\nasync def p(ctx, payload): ...\nSIMULATED = {'q': [{}]}\n",
            "unknown task 'q'",
        ),
        ("@task('p')\nasync def p(ctx, payload): ...\nSIMULATED = 3\n", "is not a mapping"),
    ],
)
def test_unsupported_module_is_refused(place: Path, text: str, complaint: str) -> None:
    name = module(place, f"mine_bad_{abs(hash(text))}", text)
    with pytest.raises(AppError, match=f"--app: .*{complaint}"):
        beside(scenarios.find("calm"), [name])


def test_missing_module_is_refused(place: Path) -> None:
    assert place.exists()
    with pytest.raises(AppError, match="--app: no module 'mine_nowhere'"):
        beside(scenarios.find("calm"), ["mine_nowhere"])
