"""Clocks and entropy in a simulated process: from the seed, or refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime as dt
import importlib
import os
import pkgutil
import random
import secrets  # noqa: F401 - in ENTROPY
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from time import monotonic  # noqa: F401 - in CLOCKS
from typing import Any, TypeVar

import pytest
import simulation_specimen

from chaos.simulation.kernel import virtual
from chaos.simulation.kernel.audit import FORBIDDEN, NotSimulated, real
from chaos.simulation.kernel.loop import SimulationLoop
from chaos.simulation.kernel.node import EPOCH, current_node
from chaos.simulation.kernel.virtual_time import REFUSED

T = TypeVar("T")

SPECIMEN = Path(simulation_specimen.__file__)


@pytest.fixture
def loop() -> Iterator[SimulationLoop]:
    loop = SimulationLoop(7)
    yield loop
    loop.dispose()


def inside(look: Callable[[], T], seed: int = 7, name: str = "n") -> T:
    """Evaluate in a node of that name."""
    seen: list[T] = []

    async def process() -> None:
        seen.append(look())

    async def main() -> None:
        node = fresh.start(name, process)
        assert await node.wait() == 0, node.output

    fresh = SimulationLoop(seed)
    try:
        fresh.run(main)
    finally:
        fresh.dispose()
    return seen[0]


class TestSameSeedSameRun:
    def test_same_seed_in_one_process(self) -> None:
        digests = [simulation_specimen.run(seed) for seed in (1, 1, 2)]
        assert digests[0] == digests[1] != digests[2]

    def test_same_seed_in_fresh_processes_with_other_hash_seeds(self) -> None:
        processes = [
            subprocess.Popen(
                [sys.executable, SPECIMEN, "1"],
                env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(Path.cwd())},
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(3)
        ]
        digests = {process.communicate()[0].strip() for process in processes}
        assert digests == {simulation_specimen.run(1)}


CLOCKS = [
    "time.time()",
    "time.time_ns()",
    "time.monotonic()",
    "time.monotonic_ns()",
    "monotonic()",  # imported by name before anything was patched
    "time.perf_counter()",
    "time.perf_counter_ns()",
    "time.mktime(time.gmtime())",
    "time.mktime(time.localtime())",
    "time.strftime('%Y-%m-%d %H')",
    "dt.datetime.now()",
    "dt.datetime.now(dt.UTC)",
    "dt.datetime.utcnow()",
    "dt.datetime.today()",
    "dt.date.today()",
]
ENTROPY = [
    "os.urandom(8)",
    "uuid.uuid4()",
    "secrets.token_hex()",
    "random.SystemRandom().random()",
    "random.Random().random()",
    "reseeded().random()",
    "random.random()",
    "random.randint(0, 1 << 60)",
    "random.sample(range(100), 100)",
]
IDENTITY = ["os.getpid()", "socket.gethostname()"]


def reseeded() -> random.Random:
    dice = random.Random(1)
    dice.seed()
    return dice


@pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning")
@pytest.mark.parametrize("source", CLOCKS + ENTROPY + IDENTITY)
def test_every_source_is_virtual_inside_and_real_outside(source: str) -> None:
    first, again = (inside(lambda: eval(source)) for _ in range(2))
    assert first == again
    assert eval(source) != first


@pytest.mark.parametrize("source", ENTROPY)
def test_entropy_comes_from_the_seed_the_name_and_the_incarnation(source: str) -> None:
    def read() -> object:
        return eval(source)

    async def main() -> list[object]:
        seen: list[object] = []

        async def process() -> None:
            seen.append(read())

        for _ in range(2):
            await fresh.start("n", process).wait()
        return seen

    fresh = SimulationLoop(7)
    first, restarted = fresh.run(main)
    fresh.dispose()
    assert len({str(first), str(restarted), str(inside(read, 8)), str(inside(read, 7, "m"))}) == 4


def test_draws_of_one_process_do_not_shift_another() -> None:
    def draws(others: int) -> list[object]:
        async def busy() -> None:
            for _ in range(others):
                await asyncio.sleep(0.01)
                random.random()
                uuid.uuid4()

        async def process() -> None:
            for _ in range(5):
                await asyncio.sleep(0.02)
                seen.append((random.random(), uuid.uuid4()))

        async def main() -> None:
            fresh.start("busy", busy)
            await fresh.start("n", process).wait()

        seen: list[object] = []
        fresh = SimulationLoop(7)
        fresh.run(main)
        fresh.dispose()
        return seen

    assert draws(0) == draws(9)


def test_only_the_wall_clock_can_be_moved(loop: SimulationLoop) -> None:
    async def process() -> None:
        here = current_node()
        here.clock_offset = -3600.0
        await asyncio.sleep(10)
        assert abs(time.time() - (EPOCH - 3590)) < 0.001
        assert dt.datetime.now(dt.UTC).isoformat().startswith("2025-12-31T23:00:10")
        assert abs(time.monotonic() - 10) < 0.001

    async def main() -> None:
        node = loop.start("n", process)
        assert await node.wait() == 0, node.output
        assert abs(time.time() - EPOCH - 10) < 0.001

    loop.run(main)


def test_processes_signal_each_other_by_pid(loop: SimulationLoop) -> None:
    async def process() -> None:
        stopping = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, stopping.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert os.getppid() == 1
        await stopping.wait()
        await asyncio.sleep(5)

    async def main() -> int:
        node = loop.start("n", process)
        await asyncio.sleep(1)
        os.kill(node.pid, 0)
        os.kill(node.pid, signal.SIGTERM)
        code = await node.wait()
        with pytest.raises(ProcessLookupError):
            os.kill(node.pid, 0)
        return code

    assert loop.run(main) == -15


def test_output_belongs_to_its_process(
    loop: SimulationLoop, capsys: pytest.CaptureFixture[str]
) -> None:
    async def process() -> None:
        print("one\ntwo")
        print("no line end", end="", file=sys.stderr)
        assert not sys.stderr.isatty()
        with real():
            print("to the terminal")

    async def main() -> None:
        await loop.start("n", process).wait()

    loop.run(main)
    assert loop.nodes[1].output == ["one", "two", "no line end"]
    assert capsys.readouterr().out == "to the terminal\n"


def test_library_counters_restart_with_each_run() -> None:
    counter: Any = importlib.import_module("asyncpg.connection")
    counter._uid = 99
    assert inside(lambda: counter._uid) == 0


@pytest.mark.parametrize("name", virtual.ADDRESSED)
def test_sets_of_library_objects_iterate_in_creation_order(name: str) -> None:
    def order() -> list[int]:
        things = [kind.__new__(kind) for _ in range(100)]
        random.Random(1).shuffle(things)  # addresses rise in creation order
        return [things.index(thing) for thing in set(things)]

    virtual.install()
    kind: Any = pkgutil.resolve_name(name)
    assert inside(order) == list(range(100))
    assert len({kind.__new__(kind) for _ in range(10)}) == 10


def exists(name: str) -> bool:
    """Return whether this version of Python has the name."""
    owner, _, attribute = name.rpartition(".")
    return hasattr(pkgutil.resolve_name(owner), attribute)


class TestRefusals:
    @pytest.mark.parametrize("name", [name for name in FORBIDDEN if exists(name)])
    def test_refusal_names_call_caller_and_alternative(
        self, loop: SimulationLoop, name: str
    ) -> None:
        async def main() -> None:
            with pytest.raises(NotSimulated) as caught:
                pkgutil.resolve_name(name)()
            text = str(caught.value)
            assert text.startswith(f"{name} is not simulated (harness called it at {__file__}:")
            assert text.endswith(FORBIDDEN[name])
            assert loop.refused == [text]

        loop.run(main)

    @pytest.mark.parametrize("name", REFUSED)
    def test_unsupported_loop_methods_are_refused(self, loop: SimulationLoop, name: str) -> None:
        async def main() -> None:
            with pytest.raises(NotSimulated, match=rf"loop\.{name} is not simulated"):
                getattr(loop, name)(0)

        loop.run(main)

    @pytest.mark.parametrize(
        "use",
        [
            lambda: asyncio.to_thread(print),
            lambda: asyncio.create_subprocess_exec("true"),
            lambda: asyncio.open_connection("10.0.0.1", 80, ssl=True),
            lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
            lambda: called(threading.Thread(target=print).start),
            lambda: called(threading.Event().wait),
            lambda: called(concurrent.futures.ThreadPoolExecutor().submit, print),
            lambda: called(socket.socket),
            lambda: called(socket.create_connection, ("127.0.0.1", 80)),
            lambda: called(subprocess.run, ["true"]),
            lambda: called(os.popen, "true"),
        ],
    )
    def test_common_unsupported_calls_are_refused(
        self, loop: SimulationLoop, use: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        async def main() -> None:
            with pytest.raises(NotSimulated, match=r"test_simulation_virtual\.py"):
                await use()

        loop.run(main)

    def test_swallowed_refusal_is_recorded(self, loop: SimulationLoop) -> None:
        async def main() -> None:
            for _ in range(3):
                with contextlib.suppress(Exception):
                    time.sleep(1)  # noqa: ASYNC251

        loop.run(main)
        assert len(loop.refused) == 1

    def test_bridges_see_the_real_world(self, loop: SimulationLoop) -> None:
        async def main() -> None:
            with real():
                time.sleep(0)  # noqa: ASYNC251
                assert time.time() > EPOCH + 1
                assert os.getpid() != current_node().pid
                socket.socket().close()
            with pytest.raises(NotSimulated):
                time.sleep(0)  # noqa: ASYNC251

        loop.run(main)

    def test_everything_is_real_outside_of_nodes(self) -> None:
        virtual.install()
        time.sleep(0)
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        thread.start()
        assert done.wait(5)
        thread.join()
        with socket.socket() as one:
            assert one.fileno() >= 0
        assert subprocess.run(["true"], check=False).returncode == 0
        assert time.clock_gettime(time.CLOCK_MONOTONIC) > 0


async def called(function: Callable[..., object], *args: object) -> None:
    function(*args)


_COPIES = """
import gc, pkgutil, random, sys, types
import httpx, aiosmtplib, redis.asyncio, asyncpg, sqlalchemy.ext.asyncio, uvicorn
import holdfast.api.server, holdfast.scheduler.role, holdfast.worker.role, holdfast.client
import holdfast.handlers.builtin.http_request, holdfast.handlers.builtin.send_email
import holdfast.telemetry.export, chaos.observers.sink
from chaos.simulation.kernel import audit
from chaos.simulation.kernel import virtual

names = [*virtual.SOURCES, *audit.FORBIDDEN, *(f"random.{name}" for name in random.__all__)]
before = {}
for name in names:
    owner, _, attribute = name.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    if hasattr(owner, attribute) and not isinstance(owner, type):
        before[name] = getattr(owner, attribute)
virtual.install()
real = {id(f): n for n, f in before.items() if f is not pkgutil.resolve_name(n)}
assert len(real) > 60, len(real)
ours = ("holdfast", "observability", "chaos", "redis", "httpcore", "httpx", "asyncpg", "sqlalchemy",
        "uvicorn", "starlette", "fastapi", "anyio", "prometheus_client", "h11",
        "pydantic", "aiosmtplib", "asyncio", "opentelemetry")
for thing in gc.get_objects():
    if not isinstance(thing, (type, types.FunctionType)):
        continue
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str) or module.split(".")[0] not in ours:
        continue
    if isinstance(thing, type):
        kept = list(vars(thing).values())
    else:
        kept = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        if not module.startswith("chaos.simulation"):
            cells = [cell for cell in thing.__closure__ or () if cell != types.CellType()]
            kept += [cell.cell_contents for cell in cells]
    for value in kept:
        # prometheus_client's multiprocess mode is off.
        if id(value) in real and thing.__qualname__ != "MultiProcessValue":
            print(module, thing.__qualname__, real[id(value)])
"""


def test_no_library_keeps_an_unpatched_clock() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _COPIES], capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr) == ("", "")
