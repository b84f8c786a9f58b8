"""Generated mutants: what the operators change, which mutants a seed draws, where they matter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from chaos.mutants import MutantError, plant
from chaos.mutants.generated import FOLDERS, GeneratedMutant, draw, product_files
from chaos.mutants.generated.equivalent import equivalent
from chaos.mutants.generated.probes import Probes
from chaos.mutants.generated.python_operators import changes

SOURCES = Path(__file__).parents[2]

PYTHON = [
    ("a < b", "comparison", "a <= b"),
    ("a >= b", "comparison", "a > b"),
    ("a == b", "comparison", "a != b"),
    ("a is not None", "comparison", "a is None"),
    ("a in b", "comparison", "a not in b"),
    ("a and b", "boolean", "a or b"),
    ("not a", "negation", "a"),
    ("x if a else b", "negation", "x if (not (a)) else b"),
    ("[x for x in y if x]", "negation", "[x for x in y if (not (x))]"),
    ("a + b", "arithmetic", "a - b"),
    ("x[1:]", "off by one", "x[2:]"),
    ("x[1:]", "off by one", "x[0:]"),
    ("sleep(0.5)", "constant", "sleep(5.0)"),
    ("f(key=True)", "constant", "f(key=False)"),
    ("f(a, b)", "arguments", "f(b, a)"),
    ("f(x=a, y=b)", "arguments", "f(x=b, y=a)"),
    ("max(a, b)", "opposite", "min(a, b)"),
    ("sorted(a, key=b)", "order", "list(a)"),
    ("loop.time()", "now", "(loop.time() - 1.0)"),
]
STATEMENTS = [
    ("async def f():\n    await g()\n", "await", "async def f():\n    pass\n"),
    ("if a:\n    f()\n", "statement", "if a:\n    pass\n"),
    ("if a:\n    f()\n", "negation", "if (not (a)):\n    f()\n"),
    ("self.x = 1\n", "statement", "pass\n"),
    ("x += 1\n", "arithmetic", "x -= 1\n"),
    ("raise Error\n", "statement", "pass\n"),
    ("while True:\n    break\n", "statement", "while True:\n    continue\n"),
]
SQL = [
    ("WHERE a <= b", "sql comparison", "WHERE a < b"),
    ("WHERE a < b", "sql comparison", "WHERE a <= b"),
    ("WHERE a = b", "sql comparison", "WHERE a <> b"),
    ("WHERE a <> b", "sql comparison", "WHERE a = b"),
    ("WHERE a OR b", "sql boolean", "WHERE a AND b"),
    ("WHERE a AND f(b, c) ORDER BY d", "sql conjunct", "WHERE a ORDER BY d"),
    ("WHERE a AND f(b, c) ORDER BY d", "sql conjunct", "WHERE f(b, c) ORDER BY d"),
    ("(SELECT 1 WHERE a AND b), c", "sql conjunct", "(SELECT 1 WHERE a), c"),
    ("WHERE a IS NULL", "sql null", "WHERE a IS NOT NULL"),
    ("WHERE NOT EXISTS (SELECT 1)", "sql null", "WHERE EXISTS (SELECT 1)"),
    ("ORDER BY a DESC, b", "sql order", "ORDER BY a, b"),
    ("ORDER BY f(a, b), c LIMIT 5", "sql order", "ORDER BY f(a, b) DESC, c LIMIT 5"),
    ("UPDATE t SET n = n + 1", "sql off by one", "UPDATE t SET n = n"),
    ("UPDATE t SET n = n + 1", "sql arithmetic", "UPDATE t SET n = n - 1"),
    ("SELECT a LIMIT 5", "sql off by one", "SELECT a LIMIT 6"),
    ("UPDATE t SET a = f(1, 2), b = 3 FROM u", "sql statement", "UPDATE t SET a = f(1, 2) FROM u"),
    ("SELECT clock_timestamp()", "sql now", "SELECT (clock_timestamp() - interval '1 second')"),
    ("SELECT GREATEST(a, b) FROM t WHERE c", "sql opposite", "SELECT LEAST(a, b) FROM t WHERE c"),
    ("SELECT COALESCE(a, 0) FROM t", "sql arguments", "SELECT COALESCE(0, a) FROM t"),
    ("SELECT 1 FOR UPDATE SKIP LOCKED", "sql clause", "SELECT 1 FOR UPDATE"),
]


def changed(source: str, operator: str) -> set[str]:
    found = changes(source.encode())
    return {c.applied(source.encode()).decode() for c in found if c.operator == operator}


@pytest.mark.parametrize(("old", "operator", "new"), PYTHON)
def test_operators_of_expressions(old: str, operator: str, new: str) -> None:
    assert f"x = {new}\n" in changed(f"x = {old}\n", operator)


@pytest.mark.parametrize(("old", "operator", "new"), STATEMENTS)
def test_operators_of_statements(old: str, operator: str, new: str) -> None:
    assert new in changed(old, operator)


@pytest.mark.parametrize("quoted", ['text("{}")', 'f"""\n{}"""', '"ä" "{}"'])
@pytest.mark.parametrize(("old", "operator", "new"), SQL)
def test_operators_of_sql(old: str, operator: str, new: str, quoted: str) -> None:
    assert f"x = {quoted.format(new)}\n" in changed(f"x = {quoted.format(old)}\n", operator)


@pytest.mark.parametrize(
    ("source", "operator"),
    [
        ('"""A docstring: WHERE a AND b."""\n', "sql boolean"),
        ("def f(x: Literal[1]) -> None: ...\n", "off by one"),
        ("from a import b\n", "statement"),
        ("if TYPE_CHECKING:\n    f()\n", "negation"),
        ("assert a < b\n", "comparison"),
        ("@dataclass(slots=True)\nclass A: ...\n", "constant"),
        ('log("a and b, 1")\n', "sql off by one"),
        ("x = f\"SELECT '{State.A}', {a < b and 1} FROM t\"\n", "sql boolean"),
        ('x = text("UPDATE t SET a = b FROM c")\n', "sql comparison"),
    ],
)
def test_what_the_operators_leave_alone(source: str, operator: str) -> None:
    assert changed(source, operator) == set()


@pytest.mark.parametrize("file", product_files(SOURCES))
def test_each_change_of_the_product_compiles(file: str) -> None:
    source = (SOURCES / file).read_bytes()
    found = list(changes(source))
    for change in found:
        applied = change.applied(source)
        assert applied != source
        compile(applied, file, "exec")


@pytest.fixture(scope="module")
def drawn() -> list[GeneratedMutant]:
    return draw(SOURCES, 40, seed=3)


def names(mutants: Iterable[GeneratedMutant]) -> list[str]:
    return [mutant.name for mutant in mutants]


def test_seed_determines_the_mutants_and_more_begin_with_the_same(
    drawn: list[GeneratedMutant],
) -> None:
    assert names(draw(SOURCES, 25, seed=3)) == names(drawn)[:25]
    assert names(draw(SOURCES, 25, seed=4)) != names(drawn)[:25]
    assert len(set(names(drawn))) == 40
    assert {mutant.folder for mutant in drawn} == set(FOLDERS)
    assert len({mutant.operator for mutant in drawn}) > 10


def test_mutant_is_planted_as_its_diff_says(drawn: list[GeneratedMutant], tmp_path: Path) -> None:
    mutant = drawn[0]
    tree = plant(mutant, SOURCES, tmp_path / "tree")
    source = (SOURCES / mutant.file).read_bytes()
    assert (tree / mutant.file).read_bytes() == mutant.change.applied(source)
    patched = tmp_path / "patched"
    patched.mkdir()
    (patched / mutant.file).parent.mkdir(parents=True)
    (patched / mutant.file).write_bytes(source)
    patch = ["git", "apply", "--unsafe-paths", f"--directory={patched}", "-"]
    subprocess.run(patch, input=mutant.diff, text=True, cwd=tmp_path, check=True)
    assert (patched / mutant.file).read_bytes() == (tree / mutant.file).read_bytes()


def small_tree(path: Path, source: str) -> Path:
    for folder in FOLDERS:
        (path / "system/holdfast" / folder).mkdir(parents=True)
    (path / "system/holdfast/store/store.py").write_text(source, encoding="utf-8")
    return path


def test_name_of_a_mutant_survives_other_changes_of_its_file(tmp_path: Path) -> None:
    source = "def f(a):\n    return a < 1\n\n\ndef g(a):\n    return a < 1\n"
    before = draw(small_tree(tmp_path / "a", source), 6, seed=1)
    after = draw(small_tree(tmp_path / "b", f"# A comment.\n\n{source}"), 6, seed=1)
    assert sorted(names(before)) == sorted(names(after))
    assert len(set(names(before))) == 6
    with pytest.raises(MutantError, match="only 6"):
        draw(tmp_path / "a", 7, seed=1)


PROBED = """\
LIMIT = 5
_SQL = text(f"SELECT 1 LIMIT {LIMIT}")


def _part(
    a=1,
):
    return f"{a} AND b"


WHOLE = _part()


class Settings:
    size = 3


def run(settings):
    if settings.size:
        call(
            WHOLE,
        )
    return _SQL
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (1, {23}),  # a constant, used by a constant, used in the function
        (8, {8, 20, 21, 22}),  # called at import: also where its result is used
        (15, {19}),  # a field
        (20, {20, 21, 22}),  # all lines of the statement
        (19, {19}),  # a condition: its own line
    ],
)
def test_probes_are_the_lines_that_make_a_change_matter(
    line: int, expected: set[int], tmp_path: Path
) -> None:
    tree = small_tree(tmp_path, PROBED)
    file = "system/holdfast/store/store.py"
    assert Probes(tree, [file]).of(file, line) == {file: expected}


def test_equivalent_mutants_have_a_reason() -> None:
    assert all(len(why) > 20 for why in equivalent().values())
