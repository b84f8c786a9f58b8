"""Virtualise clocks, entropy, pid, signals and terminal for simulated processes.

Virtual are SOURCES below, the functions of ``random``, unseeded ``Random()``, and through
time-machine (which replaces them in C, so that copies are replaced too) ``time.time``,
``time.time_ns``, ``datetime.now``, ``utcnow`` and ``today``, ``date.today``, and ``gmtime``,
``localtime`` and ``strftime`` of the present. ``uuid4``, ``secrets`` and ``SystemRandom`` rest on
``os.urandom``. All other clocks and sources of entropy are in ``audit.FORBIDDEN``.

Everything is patched once per OS process and checks at each call whether a node's code is running;
all other code gets the real one. Copies that modules made by ``from time import monotonic`` are
replaced, whether made before or later. Copies kept elsewhere (a default argument, an attribute) are
not: ``tests/simulation/test_simulation_virtual.py`` looks for them.
"""

from __future__ import annotations

import contextlib
import io
import pkgutil
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TextIO

import time_machine

from chaos.simulation.kernel import audit
from chaos.simulation.kernel.audit import Function
from chaos.simulation.kernel.node import Node, simulated


def _urandom(node: Node, size: int) -> bytes:
    return node.entropy.randbytes(size)


def _kill(node: Node, pid: int, number: int) -> None:
    """Send a signal to a node; one that ends the caller does so immediately."""
    target = next((other for other in node.loop.nodes if other.pid == pid and other.alive), None)
    if target is None:
        raise ProcessLookupError(f"no simulated process has the id {pid}")
    if target is node and number in _FATAL and number not in node.signal_handlers:
        node.loop.leave(-number)
    if number:
        node.loop.send_signal(target, number)


_FATAL = set(signal.Signals) - {
    signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH,
}  # fmt: skip

# Replacements inside a node; called with the node as the first argument.
SOURCES: dict[str, Function] = {
    "time.monotonic": lambda node: node.loop.time(),
    "time.monotonic_ns": lambda node: round(node.loop.time() * 1e9),
    "time.perf_counter": lambda node: node.loop.time(),
    "time.perf_counter_ns": lambda node: round(node.loop.time() * 1e9),
    "os.urandom": _urandom,
    "os.getpid": lambda node: node.pid,
    "os.getppid": lambda _: 1,
    "os.kill": _kill,
    "os._exit": lambda node, status: node.loop.leave(status),
    "os.abort": lambda node: node.loop.leave(-signal.SIGABRT),
    "signal.raise_signal": lambda node, signalnum: _kill(node, node.pid, signalnum),
    "socket.gethostname": lambda node: node.name,
    # At /metrics: memory, processor time and files of the process that runs the simulation.
    "prometheus_client.process_collector.ProcessCollector.collect": lambda *_: [],
}

# Counters of libraries that appear on the wire; each run starts from the same values.
COUNTERS = {
    ("asyncpg.connection", "_uid"): 0,  # the names of prepared statements
}

# Classes of libraries whose objects are iterated over in sets: ordered by address unless they are
# numbered.
ADDRESSED = (
    "redis.asyncio.connection:AbstractConnection",
    "uvicorn.protocols.http.h11_impl:H11Protocol",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
)


@cache
def install() -> None:
    """Patch this OS process, once."""
    functions = audit.wrappers()
    functions |= {name: partial(_dispatching, source) for name, source in SOURCES.items()}
    for name in random.__all__:
        if isinstance(getattr(getattr(random, name), "__self__", None), random.Random):
            functions[f"random.{name}"] = partial(_dispatching, _drawing(name))
    audit.patch(functions | {"random.Random.seed": _seeding})
    for name in ADDRESSED:
        with contextlib.suppress(ImportError):  # not installed, so not used
            pkgutil.resolve_name(name).__hash__ = _numbered
    traveller = time_machine.travel(0.0).start()
    real_time_ns = time_machine.escape_hatch.time.time_ns

    def time_ns() -> int:
        node = simulated()
        return real_time_ns() if node is None else node.wall_ns()

    traveller.time_ns = time_ns  # type: ignore[method-assign]


@contextmanager
def installed() -> Iterator[None]:
    """Patch for the duration of a run; also copy a node's terminal output to its ``output``."""
    install()
    for (module, attribute), value in COUNTERS.items():
        if module in sys.modules:
            setattr(sys.modules[module], attribute, value)
    outer = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Terminal(sys.stdout), _Terminal(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = outer


class _Terminal(io.TextIOBase):
    """Replaces sys.stdout or sys.stderr with one terminal per process."""

    def __init__(self, outer: TextIO) -> None:
        self._outer = outer

    def write(self, text: str) -> int:
        node = simulated()
        if node is None:
            return self._outer.write(text)
        node.write(text)
        return len(text)

    def flush(self) -> None:
        if simulated() is None:
            self._outer.flush()

    def writable(self) -> bool:
        return True


def _dispatching(source: Function, real_one: Function) -> Function:
    def dispatched(*args: Any, **kwargs: Any) -> Any:
        node = simulated()
        if node is None:
            return real_one(*args, **kwargs)
        return source(node, *args, **kwargs)

    return dispatched


def _drawing(name: str) -> Function:
    return lambda node, *args, **kwargs: getattr(node.random, name)(*args, **kwargs)


def _numbered(thing: Any) -> int:
    """Return a hash: the number of the object among those hashed in its node."""
    number: int | None = vars(thing).get("_simulated_hash")
    if number is None:
        node = simulated()
        number = object.__hash__(thing) if node is None else next(node.hashes)
        vars(thing)["_simulated_hash"] = number
    return number


def _seeding(real_one: Function) -> Function:
    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        node = simulated()
        if a is None and node is not None:
            a = node.entropy.getrandbits(256)
        real_one(self, a, version)

    return seed
