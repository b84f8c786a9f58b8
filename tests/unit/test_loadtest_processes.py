"""The load test finds the product's processes, and a peer's interpreter can import its driver."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import typer.main

from holdfast.cli import app
from loadtest.peers.peer_process import NAMES
from loadtest.process_stats import (
    PRODUCT_MODULE,
    ROLES,
    cpu_seconds,
    cpu_seconds_by_part,
    megabytes,
    processes,
)
from loadtest.statements import StatementCost

LOADTEST = Path(__file__).parents[2] / "loadtest"
# What the interpreter of a peer imports: it has neither the product nor its dependencies.
FOR_PEERS = [
    *("__init__.py", "inserts.py"),
    *("peers/__init__.py", "peers/driver.py", "peers/peer_api.py"),
]
OF_OURS = {"loadtest.peers.peer_api", "loadtest.inserts"}
BUSY = "while True: pass"


@contextmanager
def child(*arguments: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", BUSY, *arguments])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_roles_are_commands_of_the_module_that_is_started() -> None:
    assert find_spec(f"{PRODUCT_MODULE}.__main__") is not None
    assert set(ROLES) <= set(typer.main.get_group(app).commands)


def test_processes_are_found_by_role_and_measured() -> None:
    with child("-m", PRODUCT_MODULE, "worker", "--queues", "a") as worker, child(PRODUCT_MODULE):
        before = cpu_seconds()
        deadline = time.monotonic() + 20
        while cpu_seconds() - before < 0.05:
            assert time.monotonic() < deadline, "CPU time of a busy child does not grow"
            time.sleep(0.02)
        assert {role: [each.pid for each in found] for role, found in processes().items()} == {
            "worker": [worker]
        }
        assert {part for part, spent in cpu_seconds_by_part().items() if spent} <= {
            "worker",
            "other",
            "postgres",  # of other tests in this process
        }
        memory = megabytes()
        assert set(memory) == {"worker"}
        assert memory["worker"] > 1
    assert processes() == {}


def test_cpu_time_of_a_killed_process_still_counts() -> None:
    before = spent = cpu_seconds()
    with child():
        deadline = time.monotonic() + 20
        while spent - before < 0.05:
            assert time.monotonic() < deadline, "CPU time of a busy child does not grow"
            time.sleep(0.02)
            spent = cpu_seconds()
    half_a_tick = 0.005  # sums of ticks in another order differ by less
    assert cpu_seconds() > spent - half_a_tick


def test_driver_of_peers_needs_the_standard_library_only() -> None:
    for name in FOR_PEERS:
        for node in ast.walk(ast.parse((LOADTEST / name).read_text())):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            for module in imported:
                package = module.partition(".")[0]
                assert package in sys.stdlib_module_names or module in OF_OURS


def test_peers_name_their_own_modules() -> None:
    for name in NAMES:
        tree = ast.parse((LOADTEST / "peers" / f"{name}_peer.py").read_text())
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        started = [str(text) for text in texts if str(text).startswith("loadtest.")]
        assert {text.partition(":")[0] for text in started} <= {f"loadtest.peers.{name}_peer"}
        imports = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert [each for each in imports if each and each.startswith("loadtest")] == [
            "loadtest.peers.peer_api"
        ]


def test_label_of_a_statement_lists_the_tables_it_writes() -> None:
    text = "SELECT id FROM tasks FOR UPDATE OF tasks SKIP LOCKED; UPDATE tasks SET a = 1"
    assert StatementCost(text, 1.0).label == f"[tasks] {text}"
    assert StatementCost("SELECT 1", 1.0).label == "[reads] SELECT 1"
