"""The names that ``holdfast`` exports: complete, and imported only on first use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

HEAVY = ("alembic", "asyncpg", "fastapi", "opentelemetry", "pydantic", "redis", "sqlalchemy")


def test_importing_holdfast_loads_nothing_else() -> None:
    loaded = "import sys; before = {*sys.modules}; import holdfast; print({*sys.modules} - before)"
    done = subprocess.run(
        [sys.executable, "-c", loaded],
        env={"PYTHONPATH": str(Path(holdfast.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    names: set[str] = ast.literal_eval(done.stdout)
    ours = {name for name in names if name.partition(".")[0] == "holdfast"}
    assert ours == {"holdfast"}
    assert not {name.partition(".")[0] for name in names} & {*HEAVY}


@pytest.mark.parametrize("name", holdfast.__all__)
def test_public_names_are_those_of_their_modules(name: str) -> None:
    value = getattr(holdfast, name)
    assert value.__module__.startswith("holdfast.")
    assert getattr(sys.modules[value.__module__], name) is value
    assert name in dir(holdfast)


def test_type_checkers_see_exactly_the_public_names() -> None:
    """The imports under TYPE_CHECKING and the table of modules must agree."""
    assert holdfast.__file__ is not None
    body = ast.parse(Path(holdfast.__file__).read_text()).body
    (typed,) = (
        node.body
        for node in body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: node.module
        for node in typed
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == vars(holdfast)["_MODULES"]
    assert sorted(seen) == holdfast.__all__


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = holdfast.nonsense  # type: ignore[attr-defined]
