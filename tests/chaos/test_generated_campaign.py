"""Trying generated mutants: what is tried, what resumes, what is counted and printed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from chaos.mutants import Edit
from chaos.mutants.generated import GeneratedMutant, product_files
from chaos.mutants.generated.change import SourceChange
from chaos.mutants.generated.probes import Probes
from chaos.run.generated.campaign import Campaign
from chaos.run.generated.covering_tests import CoveringTest, choose
from chaos.run.generated.pytest_run import junit_key, run_pytest
from chaos.run.generated.pytest_tier import PytestTier
from chaos.run.generated.results import Results
from chaos.run.generated.table import survivors, table, tried_mutants
from chaos.run.generated.trial import Fate, MutantTrial, Tier
from chaos.simulation.suite import simulation_tier
from chaos.simulation.suite.covering_scenarios import CoveringScenario, schedule
from chaos.simulation.suite.simulation_tier import SimulationTier

SOURCES = Path(__file__).parents[2]
DECODING = "system/holdfast/store/decoding.py"


def mutant_of(name: str, file: str = DECODING, old: str = "", new: str = "") -> GeneratedMutant:
    """Return a mutant that replaces ``old``, which occurs once in ``file``."""
    text = (SOURCES / file).read_text(encoding="utf-8")
    start = text.index(old)
    change = SourceChange(start, start + len(old), new, "comparison", "f")
    line = text.count("\n", 0, start) + 1
    edits = (Edit(file, old, new),) if old else ()
    return GeneratedMutant(name, file, line, change, f"--- a/{file}\n-old\n+new\n", edits)


def trial_of(name: str, tier: Tier, fate: Fate, by: str = "") -> MutantTrial:
    return MutantTrial(mutant=name, tier=tier, fate=fate, by=by, tried=3, seconds=1.5)


@dataclass
class Tried:
    """A tier that kills what is in ``dead``."""

    tier: Tier
    dead: Sequence[str] = ()
    seen: list[str] = field(default_factory=list)

    async def attempt(self, mutant: GeneratedMutant, tree: Path) -> MutantTrial:
        self.seen.append(mutant.name)
        assert (tree / mutant.file).exists()
        killed = mutant.name in self.dead
        return trial_of(mutant.name, self.tier, Fate.KILLED if killed else Fate.SURVIVED)


# -------------------------------------------------------------------------------- results and runs


def test_results_are_read_again_but_for_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    first = trial_of("a", Tier.TESTS, Fate.KILLED, "api/test_x.py::test_y")
    Results(path).add(first)
    with path.open("ab") as file:
        file.write(b'{"mutant":"b","tier":"te')  # killed while writing
    results = Results(path)
    assert results.get("a", Tier.TESTS) == first
    assert results.get("b", Tier.TESTS) is None
    results.add(trial_of("b", Tier.TESTS, Fate.SURVIVED))
    results.add(trial_of("a", Tier.TESTS, Fate.SURVIVED))
    again = Results(path)
    assert again.get("b", Tier.TESTS) == trial_of("b", Tier.TESTS, Fate.SURVIVED)
    assert again.get("a", Tier.TESTS) == trial_of("a", Tier.TESTS, Fate.SURVIVED)


async def test_campaign_tries_what_has_no_result_in_a_tier(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.add(trial_of("a", Tier.SIMULATION, Fate.SURVIVED))
    results.add(trial_of("b", Tier.SIMULATION, Fate.SURVIVED))
    results.add(trial_of("b", Tier.TESTS, Fate.SURVIVED))
    tiers = Tried(Tier.SIMULATION), Tried(Tier.TESTS, dead=["a"])
    mutants = [mutant_of(name) for name in "abc"]
    await Campaign(mutants, tiers, results).run()
    assert [tier.seen for tier in tiers] == [["c"], ["a", "c"]]
    killed = results.get("a", Tier.TESTS)
    assert killed is not None
    assert killed.fate is Fate.KILLED


@pytest.mark.parametrize("hours", [0.0, 1e-9])
async def test_campaign_starts_nothing_after_its_time(tmp_path: Path, hours: float) -> None:
    tier = Tried(Tier.TESTS)
    results = Results(tmp_path / "results.jsonl")
    await Campaign([mutant_of("a")], [tier], results, hours=hours).run()
    assert tier.seen == []


async def test_what_cannot_be_imported_does_not_build(tmp_path: Path) -> None:
    text = "from __future__ import annotations\n"
    broken = mutant_of("a", old=text, new=text + "import no_such_module\n")
    results, tier = Results(tmp_path / "results.jsonl"), Tried(Tier.TESTS)
    await Campaign([broken], [tier], results).run()
    trial = results.get("a", Tier.TESTS)
    assert trial is not None
    assert trial.fate is Fate.DOES_NOT_BUILD
    assert "no_such_module" in trial.by
    assert tier.seen == []


# ------------------------------------------------------------------------------- what is printed


def test_table_counts_by_file_folder_and_tier(tmp_path: Path) -> None:
    fates = {
        "a": (Fate.KILLED, Fate.SURVIVED),
        "b": (Fate.SURVIVED, Fate.KILLED),
        "c": (Fate.NOT_EXECUTED, Fate.SURVIVED),
        "d": (Fate.DOES_NOT_BUILD, Fate.DOES_NOT_BUILD),
        "e": (Fate.SURVIVED, Fate.SURVIVED),  # equivalent
    }
    results = Results(tmp_path / "results.jsonl")
    for name, both in fates.items():
        for tier, fate in zip(Tier, both, strict=True):
            results.add(trial_of(name, tier, fate))
    other = mutant_of("f", "system/holdfast/api/read.py")
    results.add(trial_of("f", Tier.TESTS, Fate.KILLED))
    mutants = [*(mutant_of(name) for name in fates), other, mutant_of("untried")]
    tried = tried_mutants(mutants, results, {"e": "the order of a set"})
    rows = {line.split()[0]: line.split()[1:] for line in list(table(tried))[1:]}
    in_store = ["5", "1", "1", "1/2", "1", "1/3", "0", "2/3", "1"]
    assert rows == {
        "api/read.py": ["1", "0", "0", "0/0", "0", "1/1", "0", "1/1", "0"],
        "api": ["1", "0", "0", "0/0", "0", "1/1", "0", "1/1", "0"],
        "store/decoding.py": in_store,
        "store": in_store,
        "all": ["6", "1", "1", "1/2", "1", "2/4", "0", "3/4", "1"],
    }
    said = "\n".join(survivors(tried))
    assert f"c {DECODING}:1 comparison: survived" in said
    assert "simulation: not executed" in said
    assert "e " + f"{DECODING}:1 comparison: equivalent: the order of a set" in said
    assert said.count("+new") == 2


# --------------------------------------------------------------------------------- what is chosen


def test_tests_that_execute_a_probe_are_chosen_quick_files_first() -> None:
    def test(node: str, seconds: float, *lines: int) -> CoveringTest:
        return CoveringTest(f"tests/{node}", seconds, {DECODING: list(lines)})

    tests = [
        test("slow.py::test_a", 30, 7),
        test("slow.py::test_b", 50, 7),
        test("quick.py::test_c", 2, 7, 8),
        test("quick.py::test_d", 1, 8),
        test("other.py::test_e", 1, 9),
    ]
    probes = {DECODING: frozenset({7, 8})}
    chosen = [each.node[6:] for each in choose(tests, probes, seconds=60)]
    assert chosen == ["quick.py::test_d", "quick.py::test_c", "slow.py::test_a"]
    assert [each.node[6:] for each in choose(tests[:2], probes, seconds=1)] == ["slow.py::test_a"]
    assert choose(tests, {DECODING: frozenset({1})}, seconds=60) == []


def test_runs_begin_with_quick_scenarios_and_the_storm() -> None:
    names = ["a", "b", "storm", "c", "d", "e", "f", "unrelated"]
    covering = [CoveringScenario(name, 1.0, {DECODING: [7]}) for name in names]
    covering[-1] = replace(covering[-1], lines={DECODING: [8]})
    probes = {DECODING: frozenset({7})}
    runs = [each.name for each in schedule(covering, probes, 8, "x")]
    assert runs[:5] == ["a", "b", "c", "d", "storm"]
    assert sorted(runs[5:7]) == ["e", "f"]
    assert runs[7] == "a"
    assert [each.name for each in schedule(covering, probes, 8, "x")] == runs
    assert schedule(covering, {DECODING: frozenset({9})}, 8, "x") == []


@dataclass
class Endless:
    """An arena whose run ends when its pool, which it also is, has worked for some seconds."""

    works: float  # seconds of processor time that each look at the meter adds
    ends: float
    processor: float = 0.0

    @property
    def processor_seconds(self) -> float:
        self.processor += self.works
        return self.processor

    async def run(self, spec: object) -> str:
        while self.processor < self.ends:
            await asyncio.sleep(0)
        return "judged"


async def test_a_run_that_only_computes_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_tier, "_CHECK_SECONDS", 0.001)
    for works, ends, hangs in ((1.0, 100.0, False), (1.0, 200.0, True), (0.01, 1.0, False)):
        arena = cast("Any", Endless(works, ends))
        running = simulation_tier._run(arena, arena, cast("Any", None))
        if hangs:
            with pytest.raises(TimeoutError):
                await running
        else:
            assert await running == cast("Any", "judged")


async def test_a_run_that_waits_without_end_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_tier, "_CHECK_SECONDS", 0.001)
    monkeypatch.setattr(simulation_tier, "_RUN_SECONDS_MAX", 0.05)
    arena = cast("Any", Endless(0.0, 1.0))
    with pytest.raises(TimeoutError):
        await simulation_tier._run(arena, arena, cast("Any", None))


# ----------------------------------------------------------------------------------------- pytest

TESTS = """\
import pathlib
import threading
import pytest

pytestmark = pytest.mark.unit

def test_good(): pass

class TestOfClass:
    @pytest.mark.parametrize("x", ["a::b"])
    def test_bad(self, x): assert x == 1

def test_endless(): threading.Event().wait()

def test_fails_once():
    marker = pathlib.Path("was-here")
    if not marker.exists():
        marker.touch()
        raise AssertionError
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_some.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nmarkers = ["unit: x", "server: y"]\n'
        'addopts = ["--import-mode=importlib"]\n',
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.stack
async def test_failing_test_is_reported_by_its_key(tree: Path, tmp_path: Path) -> None:
    node = "tests/test_some.py::TestOfClass::test_bad[a::b]"
    report = await run_pytest(tree, ["tests/test_some.py::test_good", node], tmp_path, 60)
    assert report.failed
    assert not report.timed_out
    assert [test.key for test in report.tests if test.problem] == [junit_key(node)]
    assert len(report.tests) == 2


@pytest.mark.stack
async def test_passing_tests_are_no_failure(tree: Path, tmp_path: Path) -> None:
    report = await run_pytest(tree, ["tests/test_some.py::test_good"], tmp_path, 60)
    assert not report.failed


@pytest.mark.stack
async def test_hanging_test_is_a_timeout(tree: Path, tmp_path: Path) -> None:
    arguments = ["tests/test_some.py::test_endless"]
    report = await run_pytest(tree, ["--timeout=1", *arguments], tmp_path, 60)
    assert [test.timed_out for test in report.tests] == [True]
    report = await run_pytest(tree, arguments, tmp_path, 4)
    assert report.timed_out
    assert report.failed


@pytest.mark.stack
async def test_only_a_test_that_fails_twice_kills(tree: Path) -> None:
    mutant = mutant_of("a", old="def row_to_story", new="def row_to_story")
    probes = Probes(SOURCES, product_files(SOURCES))
    probed = {file: sorted(lines) for file, lines in probes.of(DECODING, mutant.line).items()}
    names = ("test_fails_once", "test_good", "TestOfClass::test_bad[a::b]")
    tests = [CoveringTest(f"tests/test_some.py::{name}", 1.0, probed) for name in names]
    (tree / "system").mkdir()
    trial = await PytestTier(tests[:2], probes).attempt(mutant, tree)
    assert (trial.fate, trial.by, trial.tried) == (Fate.SURVIVED, "", 1)
    trial = await PytestTier(tests, probes).attempt(mutant, tree)
    assert (trial.fate, trial.by) == (Fate.KILLED, "test_some.py::TestOfClass::test_bad[a::b]")


# ------------------------------------------------------------------------------------ end to end


@pytest.mark.stack
async def test_both_tiers_kill_a_generated_mutant(tmp_path: Path) -> None:
    transitions = "system/holdfast/store/transitions.py"
    old = "THEN clock_timestamp() + make_interval(secs => eligible.delay)"
    mutant = mutant_of("a", transitions, old, old.replace("+", "-"))
    probes = Probes(SOURCES, product_files(SOURCES))
    probed = {file: sorted(lines) for file, lines in probes.of(transitions, mutant.line).items()}
    node = "tests/worker/test_worker_outcomes.py::test_handler_chooses_the_retry_delay_or_discards"
    tiers = (
        SimulationTier([CoveringScenario("calm", 1.0, probed)], probes, seed=1),
        PytestTier([CoveringTest(node, 20.0, probed)], probes),
    )
    results = Results(tmp_path / "results.jsonl")
    await Campaign([mutant], tiers, results).run()
    simulated, tested = (results.get("a", tier) for tier in Tier)
    assert simulated is not None
    assert (simulated.fate, simulated.tried) == (Fate.KILLED, 1)
    assert simulated.by.startswith("S21 ")
    assert tested is not None
    assert tested.fate is Fate.KILLED
    assert f"tests/{tested.by}" == node
