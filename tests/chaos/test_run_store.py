"""The run store: what it creates and reads back; damaged contents never make it fail."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from report_reader import judged
from specimen import Specimen
from typer.testing import CliRunner

from chaos.__main__ import app
from chaos.cli import listing
from chaos.history.history import HistoryWriter
from chaos.mutants import MUTANTS
from chaos.report import files
from chaos.report.outcome import Outcome
from chaos.report.suite import SuiteReport
from chaos.run.store import RunNotFound, RunStore, read
from chaos.scenario.scenario import names


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def write_history(directory: Path, run: Specimen) -> Path:
    path = directory / files.HISTORY
    with HistoryWriter(path) as writer:
        writer.write(*run.all_records())
    return path


def kept_run(store: RunStore, verdict: str = "true") -> Path:
    """Store a complete run."""
    directory = store.new_run("specimen", 7)
    judgement = judged(verdict)
    with HistoryWriter(directory / files.HISTORY) as writer:
        writer.write(*judgement.history.records)
    files.write_run(directory, judgement, 20.0)
    return directory


def chaos(store: RunStore, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments, "--runs-directory", str(store.root)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# ------------------------------------------------------------------------------------ the store


def test_directory_names_describe_the_run_and_never_collide(store: RunStore) -> None:
    made = [store.new_run("calm", 7, mutant) for mutant in (None, None, "no_guard")]
    made.append(store.new_suite(7))
    assert len({each.name for each in made}) == 4
    assert all(each.is_dir() for each in made)
    stamp = r"^\d{8}T\d{6}-"
    for each, rest in zip(
        made, ("calm-7", r"calm-7(-2)?", "calm-7-no_guard", "suite-7"), strict=True
    ):
        assert re.match(f"{stamp}{rest}$", each.name)


def test_latest_links_to_the_newest(store: RunStore) -> None:
    with pytest.raises(RunNotFound, match="list --runs"):
        store.find()
    first, second = kept_run(store), kept_run(store)
    for each in (first, second, first):
        store.point_latest(each)
        assert store.find() == each
    assert (store.root / "latest").readlink() == Path(first.name)
    assert store.find(second.name) == second
    assert sorted(kept.directory for kept in store.entries()) == sorted([first, second])


def test_latest_is_replaced_atomically(store: RunStore) -> None:
    here, there = store.new_run("a", 1), store.new_run("b", 1)
    store.point_latest(here)
    over = threading.Event()
    missed: list[BaseException] = []

    def watch() -> None:
        while not over.is_set():
            try:
                assert (store.root / "latest").readlink().name in {here.name, there.name}
            except (AssertionError, OSError) as error:
                missed.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(40):
        store.point_latest(there)
        store.point_latest(here)
    over.set()
    watcher.join()
    assert not missed
    assert {path.name for path in store.root.iterdir()} == {"latest", here.name, there.name}


def test_leftover_link_does_not_block_latest(store: RunStore) -> None:
    directory = store.new_run("a", 1)
    (store.root / f".latest.{os.getpid()}.{directory.name}").symlink_to("gone")
    store.point_latest(directory)
    assert store.find() == directory


# ---------------------------------------------------------------------------- damaged directories

DAMAGE = {
    "not JSON": (b"{", "is damaged"),
    "a list": (b"[]", "is damaged"),
    "nothing in it": (b"{}", "is damaged"),
    "no runs": (b'{"runs": []}', "is damaged"),
    "half a run": (b'{"runs": [{"scenario": "calm"}]}', "is damaged: seed"),
    "half a suite": (b'{"kind": "suite"}', "is damaged: title"),
    "empty file": (b"", "is damaged"),
    "not text": (b"\xff\xfe\x00", "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_run_is_shown_as_damaged(store: RunStore, damage: str) -> None:
    content, problem = DAMAGE[damage]
    good, bad = kept_run(store), store.new_run("specimen", 8)
    (bad / files.SUMMARY).write_bytes(content)
    found = {kept.directory: kept for kept in store.entries()}
    assert found[good].kind == "run"
    assert found[bad].kind == "damaged"
    assert problem in found[bad].problem
    code, output = chaos(store, "list", "--runs")
    assert code == 0
    assert re.search(rf"^damaged .*{re.escape(bad.name)}$", output, re.MULTILINE)


def test_run_that_ended_early_is_shown_as_damaged(store: RunStore) -> None:
    directory, empty = store.new_run("calm", 1), store.new_run("calm", 2)
    (directory / files.HISTORY).write_text('{"kind": "run"')
    (store.root / "note.txt").write_text("no run")
    (directory / files.SUMMARY).mkdir()
    problems = {kept.directory: kept.problem for kept in store.entries()}
    assert problems == {directory: problems[directory], empty: "empty"}
    assert "cannot be read" in problems[directory]
    (directory / files.SUMMARY).rmdir()
    assert "ended early, or is still running" in read(directory).problem


# --------------------------------------------------------------------------------- the commands


def test_list_runs_shows_the_newest_first(store: RunStore) -> None:
    assert chaos(store, "list", "--runs") == (0, f"no runs in {store.root}\n")
    first = kept_run(store, "false")
    second = kept_run(store)
    failed = Outcome(scenario="calm", seed=3, verdict="unknown", mutant="m")
    both = SuiteReport(title="t", started="2026", planned=2, runs=(failed,), seconds=9.0)
    suite = store.root / "20200101T000000-suite-7"
    suite.mkdir()
    files.write_suite(suite, both)
    code, output = chaos(store, "list", "--runs")
    assert code == 0
    lines = output.splitlines()
    assert [line.split()[-1] for line in lines] == [str(d) for d in (second, first, suite)]
    assert re.match(r"true +specimen +seed 7 +20 s ", lines[0])
    assert lines[1].startswith("false ")
    assert re.match(r"unknown +suite +0 of 2 as expected +9 s ", lines[2])


def test_list_shows_scenarios_with_their_suites_and_mutants(store: RunStore) -> None:
    code, output = chaos(store, "list")
    assert code == 0
    assert {name for name in names() if re.search(rf"^{name} ", output, re.MULTILINE)} == set(
        names()
    )
    assert re.search(r"^calm +in default, full$", output, re.MULTILINE)
    assert "faults: kill x4" in output
    assert all(f"mutant {name} " in output for name in MUTANTS)
    assert all(len(line) <= 120 for line in listing.scenarios_lines())


def test_report_rebuilds_the_latest_and_prints_its_path(store: RunStore) -> None:
    directory = kept_run(store)
    store.point_latest(directory)
    before = (directory / files.REPORT).read_text()
    (directory / files.REPORT).unlink()
    for arguments in ((), (directory.name,), (str(directory),)):
        code, output = chaos(store, "report", *arguments)
        assert (code, Path(output.strip())) == (0, directory / files.REPORT)
    assert (directory / files.REPORT).read_text() == before


def test_report_rebuilds_a_suite_and_the_missing_pages_of_its_runs(store: RunStore) -> None:
    run = kept_run(store)
    (outcome,) = read(run).outcomes
    suite = store.new_suite(7)
    files.write_suite(suite, SuiteReport(title="t", started="2026", planned=1, runs=(outcome,)))
    for path in (run / files.REPORT, suite / files.REPORT, suite / files.JUNIT):
        path.unlink()
    code, output = chaos(store, "report", suite.name)
    assert (code, output.strip()) == (0, str(suite / files.REPORT))
    assert (run / files.REPORT).exists()
    assert (suite / files.JUNIT).exists()


def test_report_of_a_history_outside_the_store(store: RunStore, tmp_path: Path) -> None:
    run = Specimen()
    run.submit("a").dispatch().claim().succeed()
    path = write_history(tmp_path, run).rename(tmp_path / "theirs.jsonl")
    code, output = chaos(store, "report", str(path))
    assert (code, output.strip()) == (0, str(tmp_path / "theirs.html"))
    assert "specimen" in (tmp_path / "theirs.html").read_text()


def test_report_prints_the_story_of_any_task(store: RunStore) -> None:
    directory = kept_run(store, "false")
    code, output = chaos(store, "report", str(directory), "--task", "victim")
    assert code == 0
    assert output.startswith("S11: SUCCEEDED with 0 ledger rows")
    assert "RUNNING -> SCHEDULED (lease lost)" in output
    assert "final read: SUCCEEDED" in output
    assert "more" not in output
    code, output = chaos(store, "report", str(directory), "--task", "nobody")
    assert code == 2
    assert "has no task nobody" in output


@pytest.mark.parametrize("content", [b"", b"{", b'{"kind": "phase", "phase": "faults", "at": 0}\n'])
def test_report_of_an_unreadable_history(store: RunStore, content: bytes) -> None:
    directory = store.new_run("calm", 1)
    (directory / files.HISTORY).write_bytes(content)
    code, output = chaos(store, "report", directory.name)
    assert code == 2
    assert output.startswith("no report: ")
    assert str(directory / files.HISTORY) in output


def test_report_without_a_run(store: RunStore) -> None:
    code, output = chaos(store, "report")
    assert code == 2
    assert "no latest run" in output
    code, output = chaos(store, "report", "no-such-run")
    assert code == 2
    assert "no run no-such-run" in output
    empty = store.new_run("calm", 1)
    code, output = chaos(store, "report", empty.name)
    assert code == 2
    assert "history.jsonl" in output


def test_check_prints_each_fault_with_its_tasks_in_flight(store: RunStore) -> None:
    result = CliRunner().invoke(app, ["check", str(kept_run(store))])
    assert result.exit_code == 0, result.output
    assert "  murder: kill worker-1; in flight 1 (1 run); observed 1/1\n" in result.output
