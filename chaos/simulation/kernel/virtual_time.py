"""Implement asyncio's loop in virtual time: callbacks, timers, connections; no threads."""

# ruff: noqa: SLF001 - a loop uses the internals of asyncio's handles

from __future__ import annotations

import asyncio
import heapq
import ipaddress
import itertools
import socket
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Protocol, TypeVarTuple

from chaos.simulation.kernel import audit

_TIMERS_CLEANED = 100  # cancelled timers until the heap is compacted

# Options of create_connection and create_server without effect in a simulated network.
_WITHOUT_MEANING = {
    "backlog", "family", "flags", "happy_eyeballs_delay", "interleave", "proto", "reuse_address",
    "reuse_port", "start_serving",
}  # fmt: skip

REFUSED = (
    "add_reader", "add_writer", "connect_accepted_socket", "connect_read_pipe",
    "connect_write_pipe", "create_datagram_endpoint", "create_unix_connection",
    "create_unix_server", "getnameinfo", "remove_reader", "remove_writer", "run_in_executor",
    "sendfile", "sock_accept", "sock_connect", "sock_recv", "sock_recv_into", "sock_recvfrom",
    "sock_recvfrom_into", "sock_sendall", "sock_sendfile", "sock_sendto", "start_tls",
    "subprocess_exec", "subprocess_shell",
)  # fmt: skip

_Ts = TypeVarTuple("_Ts")


class NetworkBackend(Protocol):
    """Creates the connections and servers of the loop."""

    async def create_connection(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]: ...

    async def create_server(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> asyncio.AbstractServer: ...


class Handle(asyncio.Handle):
    """A handle without asyncio's debug support; a run creates 40,000 of them."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualTimeLoop,
        context: Context | None,
    ) -> None:
        self._callback, self._args, self._loop = callback, args, loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._repr = self._source_traceback = None


class Timer(Handle, asyncio.TimerHandle):
    """A handle for a later time."""

    __slots__ = ()
    _when: float

    def cancel(self) -> None:
        if not self._cancelled:
            self._loop._timer_handle_cancelled(self)
            self._cancelled = True
            self._callback = self._args = None  # type: ignore[assignment]


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Create a loop; its network sets ``network``."""

    network: NetworkBackend

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._stopping = False
        self._ready: list[Any] = []  # handles that the running step made ready
        self._timers: list[tuple[float, int, Any]] = []  # when, number, handle
        self._timer_numbers = itertools.count()
        self._cancelled_timers = 0

    def time(self) -> float:
        """Return the virtual seconds since the start of the run."""
        return self._now

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # there are no threads

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = Timer(callback, args, self, context)
        timer._when = when
        # Numbered, so that timers of the same instant fire in the order in which they were set.
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def _timer_handle_cancelled(self, _: asyncio.TimerHandle) -> None:
        self._cancelled_timers += 1
        if self._cancelled_timers > max(_TIMERS_CLEANED, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: an exiting process does not finalise its generators."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: there is no executor."""

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        **options: Any,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        _require_plain("loop.create_connection", options)
        return await self.network.create_connection(protocol_factory, host, port)

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        **options: Any,
    ) -> asyncio.AbstractServer:
        _require_plain("loop.create_server", options)
        return await self.network.create_server(protocol_factory, host, port)

    async def getaddrinfo(  # type: ignore[override]
        self, host: str, port: int, **_: Any
    ) -> list[tuple[Any, ...]]:
        """Resolve IP addresses only; names are refused."""
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            audit.refuse(
                f"the name {host!r}", "connect to the address that network.host(name) returns"
            )
        stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*stream, (host, port))]


def _require_plain(what: str, options: dict[str, Any]) -> None:
    """Ignore options without effect here; refuse all others."""
    for name, value in options.items():
        if value and name not in _WITHOUT_MEANING:
            audit.refuse(f"{what}({name}=...)", "only plain TCP by address is")


for _refused in REFUSED:
    setattr(VirtualTimeLoop, _refused, audit.refusing(f"loop.{_refused}", "plain TCP is"))
