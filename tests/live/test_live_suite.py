"""What a command with several runs leaves in the run store, even if the harness fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_reader import judged
from specimen import Specimen

from chaos.errors import EdgeRefused
from chaos.history.history import HistoryWriter
from chaos.history.records import ArenaName
from chaos.nemesis.process_faults import ActorFailed
from chaos.report import files
from chaos.run.artifacts import failure
from chaos.run.spec import RunResult, RunSpec
from chaos.run.store import RunStore, read
from chaos.run.suite import run_suite
from chaos.run.suite_report import run_lines
from chaos.scenario import scenario as scenarios

CALM = scenarios.find("calm")


def record(directory: Path, run: Specimen, *, drained: bool = True) -> None:
    with HistoryWriter(directory / files.HISTORY) as writer:
        writer.write(*run.all_records(drained=drained))


def accepted() -> Specimen:
    run = Specimen()
    run.submit("a").dispatch().claim().succeed()
    return run


def spec(runs: Path, seed: int = 3, mutant: str | None = None) -> RunSpec:
    return RunSpec(ArenaName.LIVE, CALM, seed, runs, mutant=mutant)


# ------------------------------------------------------------------------ a harness that failed


def test_failed_run_shows_what_was_recorded(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    directory = store.new_run("calm", 3)
    record(directory, accepted(), drained=False)
    failed = failure(spec(tmp_path, mutant="m"), directory, ActorFailed("worker-2"), 12.0).outcome
    assert failed.verdict == "unknown"
    assert failed.doubts[0] == "the harness failed: ActorFailed: worker-2"
    assert "the history is incomplete: it has no phase drained" in failed.doubts
    assert read(directory).outcomes == (failed,)
    assert "the harness failed: ActorFailed: worker-2" in (directory / files.REPORT).read_text()


def test_run_that_failed_after_its_last_record_is_not_true(tmp_path: Path) -> None:
    directory = RunStore(tmp_path).new_run("calm", 3)
    record(directory, accepted())
    failed = failure(spec(tmp_path), directory, OSError("disk full"), 12.0).outcome
    assert (failed.verdict, failed.doubts) == (
        "unknown",
        ("the harness failed: OSError: disk full",),
    )


def test_failed_run_tells_each_reason_in_one_line(tmp_path: Path) -> None:
    directory = RunStore(tmp_path).new_run("calm", 3)
    record(directory, accepted())
    errors = [ActorFailed("worker-2; its log ends:\n{}\n{}"), EdgeRefused("redis://127.0.0.1:1")]
    error = failure(spec(tmp_path), directory, ExceptionGroup("several", errors), 12.0)
    assert error.outcome.doubts == (
        "the harness failed: ActorFailed: worker-2; its log ends:",
        "the harness refused: EdgeRefused: redis://127.0.0.1:1",
    )
    assert len(error.reasons) == 4
    assert (directory / files.FAILURE).read_text().splitlines() == error.reasons


@pytest.mark.parametrize("content", [None, b"", b'{"kind": "ru'])
def test_failed_run_without_a_history_is_listed(tmp_path: Path, content: bytes | None) -> None:
    directory = RunStore(tmp_path).new_run("calm", 3)
    if content is not None:
        (directory / files.HISTORY).write_bytes(content)
    failed = failure(spec(tmp_path), directory, OSError("no port"), 2.0).outcome
    assert (failed.scenario, failed.seed, failed.meters) == ("calm", 3, None)
    assert read(directory).outcomes == (failed,)


# ------------------------------------------------------------------------------------ the suite


class ScriptedArena:
    """Ends each run with the next of these verdicts; ``failed``: the harness fails."""

    def __init__(self, *verdicts: str) -> None:
        self._verdicts = iter(verdicts)

    async def run(self, spec: RunSpec) -> RunResult:
        store, verdict = RunStore(spec.runs), next(self._verdicts)
        directory = store.new_run(spec.scenario.id, spec.seed, spec.mutant)
        if verdict == "interrupted":
            raise KeyboardInterrupt
        if verdict == "failed":
            raise failure(spec, directory, OSError("no port"), 1.0)
        judgement = judged(verdict)
        outcome = files.write_run(directory, judgement, 2.0)
        store.point_latest(directory)
        return RunResult(outcome=outcome, lines=run_lines(judgement, 2.0, spec.seed, directory))


async def test_several_runs_share_one_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arena = ScriptedArena("true", "failed", "unknown", "false")
    assert not await run_suite(arena, [spec(tmp_path, seed) for seed in range(3, 7)])
    said = capsys.readouterr().out
    latest = RunStore(tmp_path).find()
    assert f"report: {latest / 'report.html'}\n" in said
    assert "1 of 4 true, 1 false, 2 unknown" in said
    assert "  murder: kill worker-1; in flight 1 (1 run); observed 1/1\n" in said
    assert "  murder: kill worker-1; in flight 1 (1 run); observed 0/1\n" in said
    assert "what was recorded: " in said
    suite = read(latest).suite
    assert suite is not None
    assert [run.verdict for run in suite.runs] == ["true", "unknown", "unknown", "false"]
    assert (suite.title, suite.planned) == ("calm: seeds 3 to 6", 4)
    assert {path.name for path in latest.iterdir()} == {"summary.json", "junit.xml", "report.html"}


async def test_single_run_is_its_own_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run_suite(ScriptedArena("true"), [spec(tmp_path)])
    (kept,) = RunStore(tmp_path).entries()
    assert RunStore(tmp_path).find() == kept.directory
    assert (kept.directory / files.JUNIT).exists()
    assert f"report: {kept.directory / 'report.html'}\n" in capsys.readouterr().out


async def test_interrupted_suite_keeps_its_report_so_far(
    tmp_path: Path,
) -> None:
    arena = ScriptedArena("true", "interrupted")
    with pytest.raises(KeyboardInterrupt):
        await run_suite(arena, [spec(tmp_path, 3), spec(tmp_path, 4)])
    suite = read(RunStore(tmp_path).find()).suite
    assert suite is not None
    assert (suite.verdict, len(suite.runs), suite.planned) == ("unknown", 1, 2)
    assert "1 of 2 runs are missing" in (RunStore(tmp_path).find() / files.REPORT).read_text()
