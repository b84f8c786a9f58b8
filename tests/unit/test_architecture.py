"""Architecture rules: imports, sizes, names, and what SQL statements may contain."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from chaos.mutants import import_path

ROOT = Path(__file__).parents[2]
FOLDERS_OF_CODE = ("system", "chaos", "loadtest", "observability")
PACKAGES = ("holdfast", "chaos", "loadtest", "observability")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
FOLDERS = {*FOLDERS_OF_CODE, "tests"}


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def _sources() -> list[Path]:
    return [path for path in _tracked("*.py") if path.is_relative_to(ROOT)]


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# Each import breaks a different contract.
FORBIDDEN = {
    "system/holdfast/store/store.py": "chaos.history.history",
    "system/holdfast/telemetry/metrics.py": "holdfast.store.store",
    "system/holdfast/worker/worker.py": "holdfast.scheduler.scheduler",
    "system/holdfast/model/lifecycle.py": "holdfast.store.store",
    "loadtest/__init__.py": "holdfast.client",
    "chaos/checker/model/life.py": "chaos.scenario.vocabulary",
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the linter's output for a copy of the tree that contains the FORBIDDEN imports."""
    tree = tmp_path_factory.mktemp("tree")
    for name in (*FOLDERS_OF_CODE, "pyproject.toml"):
        source = ROOT / name
        for path in source.rglob("*.py") if source.is_dir() else [source]:
            target = tree / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for module, imported in FORBIDDEN.items():
        with (tree / module).open("a") as file:
            file.write(f"\nimport {imported}\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {"PYTHONPATH": import_path(tree), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize(("module", "imported"), FORBIDDEN.items())
def test_forbidden_import_is_reported(module: str, imported: str, complaints: str) -> None:
    importer = (
        module.removeprefix("system/")
        .removesuffix(".py")
        .removesuffix("/__init__")
        .replace("/", ".")
    )
    assert "BROKEN" in complaints
    assert re.search(rf"{importer} -> {imported} \(l\.\d+\)", complaints), complaints


def test_no_import_cycles() -> None:
    """Imports under TYPE_CHECKING count: type-only cycles are as hard to read."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 300, "the graph must cover the whole repository"
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= FILE_LINES_MAX
    for function in _functions(ast.parse(source)):
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        assert lines <= FUNCTION_LINES_MAX, f"{function.name} has {lines} lines"


@pytest.mark.parametrize("packages", [("system/holdfast",), ("chaos", "loadtest")])
def test_public_class_names_are_unique(packages: tuple[str, ...]) -> None:
    """Exempt loadtest/peers, whose adapters implement one interface in separate processes."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in _tracked(*(f"{package}/*.py" for package in packages)):
        name = str(path.relative_to(ROOT))
        if not name.startswith("loadtest/peers/"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(name)
    assert len(places) > 100, "the classes of these packages must be found"
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_other_top_level_folders() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in _tracked() if path.parent != ROOT}
    assert {folder for folder in folders if not folder.startswith(".")} <= FOLDERS


def test_sql_reads_only_the_simulated_clock() -> None:
    folder = ROOT / "system" / "holdfast" / "store"
    files = ("transitions.py", "single.py", "scans.py", "submit.py", "listing.py")
    lines = (line for name in files for line in (folder / name).read_text().splitlines())
    statements = "\n".join(line for line in lines if not line.startswith("- "))
    assert not re.search(r"\bnow\(\)|CURRENT_TIMESTAMP|LOCALTIME|transaction_timestamp", statements)
    assert not re.search(r"\bLISTEN\b|advisory|\bSET (LOCAL|SESSION)\b", statements)


def test_statements_filter_by_state_only_after_the_lock() -> None:
    """A guard in the locking SELECT would miss a row that starts to match while it waits."""
    from holdfast.store import single, transitions

    for name in ("CLAIM", "FINISH", "RELEASE", "CANCEL", "RETRY"):
        sql = str(getattr(transitions, name))
        lock = sql[sql.index("locked AS MATERIALIZED") : sql.index("FOR NO KEY UPDATE")]
        assert lock.rstrip().endswith("FROM holdfast.tasks t WHERE t.id = input.id"), name
        assert "state =" not in lock, name
        assert "epoch =" not in lock, name
    sql = str(single.FINISH_ONE)
    lock = sql[sql.index("locked AS MATERIALIZED") : sql.index("FOR NO KEY UPDATE")]
    assert lock.rstrip().endswith("FROM holdfast.tasks t WHERE t.id = CAST(:id AS uuid)")


def test_production_keeps_no_state_in_modules() -> None:
    """Simulated processes share one interpreter, so factories must create all state."""
    makers = {
        "Settings",
        "Store",
        "HintQueue",
        "Metrics",
        "Registry",
        "FastAPI",
        "CollectorRegistry",
    }
    for path in _sources():
        package = path.relative_to(ROOT).parts[0]
        if package != "system":
            continue
        for node in ast.parse(path.read_text()).body:
            value = getattr(node, "value", None)
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                assert value.func.id not in makers, f"{path.name}:{node.lineno}"


def test_no_file_names_a_package_registry_or_a_local_path() -> None:
    hosts = ("py" + "pi.org", "python" + "hosted", "proxy.golang" + ".org", "registry.npm" + "js")
    places = ("/wo" + "rk/", "/ro" + "ot/")
    for path in _tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for word in (*hosts, *places):
            assert word not in text, f"{path.relative_to(ROOT)} names {word}"
