"""The same seed gives the same run to the byte, and a control shows that the test can fail."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.history.records import ArenaName
from chaos.run.artifacts import RunFailed
from chaos.run.spec import RunSpec
from chaos.scenario.scenario import Scenario
from chaos.simulation.environment.shared_servers import SharedServers
from chaos.simulation.kernel import audit
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import Node
from chaos.simulation.run import SimulatedRun, simulate
from chaos.simulation.suite.arena import SimulationArena
from chaos.simulation.suite.pool import Pool

FAULTY = Scenario.model_validate(
    {
        "id": "faulty",
        "hypothesis": "A few tasks among many faults take the same course under the same seed.",
        "topology": {
            "schedulers": 2,
            "workers": 2,
            "settings": {
                "lease_seconds": 1.5,
                "heartbeat_seconds": 0.5,
                "poll_seconds": 0.5,
                "hint_deadline_seconds": 1,
                "hint_deadline_max_seconds": 2,
                "statement_timeout_seconds": 2,
                "connect_timeout_seconds": 1,
                "submit_timeout_seconds": 3,
                "shutdown_grace_seconds": 1,
                "max_losses": 20,
            },
        },
        "workload": {
            "tasks": 30,
            "seconds": 2.5,
            "effects": {"ledger": 0.5, "sql": 0.3, "external": 0.2},
            "later": {"share": 0.3, "seconds": [0.1, 1]},
            "flaky": {"share": 0.3, "failures": [1, 2], "retry_seconds": 0.2},
            "cancels": 0.1,
            "repeats": 0.2,
            "reads": 0.2,
            "max_attempts": 10,
            "timeout_seconds": 3,
        },
        "faults": [
            {"fault": "kill", "target": "worker-*", "pick": 1, "at": 0.4, "for": 0.5},
            {
                "fault": "latency",
                "target": "scheduler-*->postgres",
                "attributes": {"latency": 100},
                "at": 0.6,
                "for": 1,
            },
            {"fault": "terminate_backends", "target": "postgres", "at": 1.2, "for": 0.1},
            {"fault": "client_kill", "target": "redis", "at": 1.6, "for": 0.1},
            {"fault": "pause", "target": "worker-*", "pick": 1, "at": 1.7, "for": 2},
        ],
    }
)
FIELD = Scenario.model_validate(
    FAULTY.document
    | {
        "id": "field",
        "topology": FAULTY.document["topology"]
        | {"environment": ["serializable", "statement_timeout", "redis_acl", "slow_start"]},
        "faults": [
            {"fault": "demote", "target": "redis", "at": 0.5, "for": 1},
            {"fault": "silent_drop", "target": "worker-1->postgres", "at": 0.7, "for": 4},
        ],
    }
)
SEED = 7

# Killed processes leave open connections, which warn when they are freed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ran(
    simulation_servers: SharedServers, tmp_path_factory: pytest.TempPathFactory
) -> SimulatedRun:
    """The run that all others must equal."""
    return run(simulation_servers, tmp_path_factory.mktemp("runs"))


def spec(runs: Path, seed: int = SEED) -> RunSpec:
    return RunSpec(ArenaName.SIMULATION, FAULTY, seed, runs)


def run(foundation: SharedServers, runs: Path, seed: int = SEED) -> SimulatedRun:
    return simulate(spec(runs, seed), foundation)


def fingerprint(foundation: SharedServers, runs: Path) -> str:
    """Return the digest of a run, or the reason that there is none."""
    try:
        return run(foundation, runs).digest
    except RunFailed as error:
        return "; ".join(error.reasons)


def test_reference_run_has_many_faults(ran: SimulatedRun) -> None:
    assert ran.judgement.verdict == "true"
    assert all(records[-1].type == "end" for records in ran.judgement.history.faults.values())
    assert ran.coverage.injections.total() == len(FAULTY.faults)
    assert {"attempt_failed", "lease_lost", "worker_replaced"} <= set(ran.coverage.sometimes)


def test_digest_is_stable_in_one_process(
    simulation_servers: SharedServers, tmp_path: Path, ran: SimulatedRun
) -> None:
    others = {run(simulation_servers, tmp_path, seed).digest for seed in range(SEED + 1, SEED + 4)}
    again = run(simulation_servers, tmp_path)
    assert len(others | {ran.digest}) == 4
    assert again.digest == ran.digest
    assert again.judgement.history.records == ran.judgement.history.records
    # Thousands of seeds in one process must not leak; only the last run is still referenced.
    left = [each for each in gc.get_objects() if isinstance(each, SimulationLoop)]
    assert len(left) <= 1


@pytest.mark.stack
# Seven runs in three processes with separate servers: over 120 s on a busy machine.
@pytest.mark.timeout(400)
def test_environment_is_the_same_under_the_same_seed(
    simulation_servers: SharedServers, tmp_path: Path
) -> None:
    def field() -> SimulatedRun:
        return simulate(RunSpec(ArenaName.SIMULATION, FIELD, SEED, tmp_path), simulation_servers)

    first, second = field(), field()
    assert first.judgement.verdict == "true", first.judgement.doubts
    assert {each.name for each in first.judgement.history.conditions} == {
        *FIELD.topology.environment
    }
    assert first.judgement.history.records == second.judgement.history.records
    assert first.digest == second.digest


@pytest.mark.stack
async def test_digest_is_stable_across_processes_and_hash_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: SimulatedRun
) -> None:
    async def digests(pool: Pool, times: int) -> list[str]:
        arena = SimulationArena(pool)
        return [each.digest async for _, each in arena.results([spec(tmp_path)] * times)]

    async with AsyncExitStack() as stack:
        pools = []
        for hash_seed in "012":
            monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
            pools.append(await stack.enter_async_context(Pool(1).up()))
        alone = await digests(pools[0], 1)
        together = await asyncio.gather(*(digests(pool, 2) for pool in pools))
    assert alone == [ran.digest]
    assert together == [[ran.digest] * 2] * 3


def test_digest_does_not_depend_on_the_commit(
    simulation_servers: SharedServers, tmp_path: Path, ran: SimulatedRun
) -> None:
    """Once it did: a commit while the tests ran made the next processes differ from theirs."""
    later = run(replace(simulation_servers, commit="another"), tmp_path)
    assert later.judgement.history.run.commit == "another"
    assert later.digest == ran.digest


class RealEntropy(random.SystemRandom):
    """Real entropy, even in a simulated process."""

    def randbytes(self, n: int) -> bytes:
        with audit.real():
            return os.urandom(n)

    def getrandbits(self, k: int, /) -> int:
        return int.from_bytes(self.randbytes(k // 8))


@contextmanager
def one_source_is_real(source: str, foundation: SharedServers) -> Iterator[None]:
    """Make one source real inside the block."""
    sql = foundation.postgres.control.rows
    clock = "FUNCTION sim.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
    with pytest.MonkeyPatch.context() as patch:
        if source == "entropy":
            patch.setattr(Node, "entropy", RealEntropy(), raising=False)
            patch.setattr(Node, "__setattr__", _but_entropy)
            yield
            return
        ((virtual,),) = sql("SELECT pg_get_functiondef('sim.clock_timestamp'::regproc)")
        sql(f"CREATE OR REPLACE {clock} 'SELECT pg_catalog.clock_timestamp()'")
        try:
            yield
        finally:
            sql(virtual)


def _but_entropy(node: Node, name: str, value: object) -> None:
    if name != "entropy":
        object.__setattr__(node, name, value)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect what killed processes left here, so that its warnings do not hit other tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            gc.collect()


@pytest.mark.parametrize("source", ["entropy"])
def test_one_real_source_changes_the_digest(
    source: str, simulation_servers: SharedServers, tmp_path: Path, ran: SimulatedRun
) -> None:
    with one_source_is_real(source, simulation_servers):
        courses = {fingerprint(simulation_servers, tmp_path) for _ in range(2)}
    # Under the real clock both runs may end alike, when the harness gives up.
    assert ran.digest not in courses
    assert fingerprint(simulation_servers, tmp_path) == ran.digest
