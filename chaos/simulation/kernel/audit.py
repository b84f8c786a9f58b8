"""Refuse calls that are not simulated, because they would make runs differ."""

from __future__ import annotations

import pkgutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn

from chaos.simulation.kernel.node import NODE, escape, simulated

Function = Callable[..., Any]
Wrap = Callable[[Function], Function]  # makes a replacement from the real function

_TASK = "use an asyncio task"
_SOCKET = "use asyncio streams or loop.create_connection with an address: they are simulated"
_PROCESS = "a simulated process starts no others: use a task, or a node of its own"
_CLOCK = "use loop.time(), time.monotonic() or time.time(): they are simulated"
_ENTROPY = "use os.urandom, secrets, uuid.uuid4 or random: they are simulated"
_SIGNAL = "use loop.add_signal_handler or os.kill: they are simulated"
_BLOCKING = "it would block every simulated process: use the asyncio one"
_PLAIN = "only plain TCP is: switch TLS off"

# Calls that raise NotSimulated in a simulated process, with an alternative. Functions are replaced
# in every module that holds a copy of them, methods in their class.
FORBIDDEN = {
    "_thread.start_new_thread": _TASK,
    "_thread.start_joinable_thread": _TASK,  # since Python 3.13
    "threading.Thread.start": _TASK,
    "threading.Condition.wait": _BLOCKING,
    "concurrent.futures.ThreadPoolExecutor.submit": f"no threads are: {_TASK} (async def)",
    "concurrent.futures.ProcessPoolExecutor.submit": _PROCESS,
    "multiprocessing.process.BaseProcess.start": _PROCESS,
    "subprocess.Popen.__init__": _PROCESS,
    "os.execv": _PROCESS,
    "os.execve": _PROCESS,
    "os.fork": _PROCESS,
    "os.forkpty": _PROCESS,
    "os.killpg": _SIGNAL,
    "os.posix_spawn": _PROCESS,
    "os.posix_spawnp": _PROCESS,
    "os.system": _PROCESS,
    "signal.alarm": _SIGNAL,
    "signal.pthread_kill": _SIGNAL,
    "signal.setitimer": _SIGNAL,
    "signal.signal": _SIGNAL,
    "socket.getaddrinfo": _SOCKET,
    "socket.gethostbyaddr": _SOCKET,
    "socket.gethostbyname": _SOCKET,
    "socket.gethostbyname_ex": _SOCKET,
    "socket.getnameinfo": _SOCKET,
    "socket.socket.__init__": _SOCKET,
    "socket.socketpair": _SOCKET,
    "ssl.SSLContext.wrap_bio": _PLAIN,
    "ssl.SSLContext.wrap_socket": _PLAIN,
    "time.sleep": "use asyncio.sleep",
    "time.asctime": _CLOCK,
    "time.clock_gettime": _CLOCK,
    "time.clock_gettime_ns": _CLOCK,
    "time.ctime": _CLOCK,
    "time.process_time": _CLOCK,
    "time.process_time_ns": _CLOCK,
    "time.thread_time": _CLOCK,
    "time.thread_time_ns": _CLOCK,
    "os.times": _CLOCK,
    "os.getrandom": _ENTROPY,
    "ssl.RAND_bytes": _ENTROPY,
    "uuid.getnode": _ENTROPY,
    "uuid.uuid1": _ENTROPY,
}

_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


class NotSimulated(RuntimeError):
    """A simulated process made a call that works only in a real one."""


@contextmanager
def real() -> Iterator[None]:
    """Use the real clocks, entropy, sockets and processes inside the block (for bridges).

    The block must not await: other nodes would run in it.
    """
    escape.depth += 1
    try:
        yield
    finally:
        escape.depth -= 1


def refuse(what: str, instead: str) -> NoReturn:
    """Raise for ``what``, and record it in ``loop.refused`` in case the exception is swallowed.

    Raises:
        NotSimulated: always.
    """
    node = NODE.get(None)
    who = node.name if node else "code outside any node"
    text = f"{what} is not simulated ({who} called it at {_caller()}): {instead}"
    if node is not None and node.alive and text not in node.loop.refused:
        node.loop.refused.append(text)
    raise NotSimulated(text)


def refusing(what: str, instead: str) -> Function:
    """Return a function that always refuses."""

    def refused(*_: object, **__: object) -> NoReturn:
        refuse(what, instead)

    return refused


def wrappers() -> dict[str, Wrap]:
    """Return wrappers that make FORBIDDEN raise in simulated processes."""
    return {name: partial(_forbidding, name, instead) for name, instead in FORBIDDEN.items()}


def patch(functions: dict[str, Wrap]) -> None:
    """Replace functions and methods by their wrapped versions, permanently.

    Modules that imported them by name get the new ones too; later imports find them at their
    origin. Names that this version of Python does not have are skipped.
    """
    replaced: dict[int, tuple[object, object]] = {}
    for name, wrap in functions.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = pkgutil.resolve_name(owner_name)
        old = getattr(owner, attribute, None)
        if old is not None:
            new = wraps(old)(wrap(old))
            setattr(owner, attribute, new)
            if not isinstance(owner, type):
                replaced[id(old)] = (old, new)
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for key, value in list(names.items()):
            if id(value) in replaced:  # ids are unique: ``replaced`` keeps the old ones
                names[key] = replaced[id(value)][1]


def _forbidding(name: str, instead: str, real_one: Function) -> Function:
    def checked(*args: Any, **kwargs: Any) -> Any:
        if simulated() is None:
            return real_one(*args, **kwargs)
        return refuse(name, instead)

    return checked


def _caller() -> str:
    """Return the innermost line outside the standard library and the simulation."""
    frame = sys._getframe(1)  # noqa: SLF001
    here = str(Path(__file__).parents[1])
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        ours = path.startswith((here, "<frozen"))
        library = path.startswith(_STANDARD_LIBRARY) and "site-packages" not in path
        if not ours and not library:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
