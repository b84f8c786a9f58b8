"""Inject faults into edges with Toxiproxy, and measure whether they took effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from chaos.checker.evidence import is_saturated
from chaos.errors import EdgeRefused
from chaos.live.socket_stats import ByteCounts, EdgeTraffic, SocketStats
from chaos.live.toxics import Proxies, ProxyToxic, Stream
from chaos.nemesis.process_faults import Hold, Observed
from chaos.scenario.faults import FaultSpec

_STREAMS: dict[str, tuple[Stream, ...]] = {
    "up": ("upstream",),
    "down": ("downstream",),
    "both": ("upstream", "downstream"),
}
_CLOSING = frozenset({"down", "timeout", "reset_peer", "limit_data"})
# How long held bytes may take to arrive after the toxic is gone.
_RELEASE_SECONDS = 0.5
_BASELINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class EdgeMeasurement:
    """What was measured on one edge.

    ``probe_seconds``: duration of the harness's own request through the same proxy; without a
    response until the end of the fault, ``answered`` is False. ``closed``: connections that were
    open before and gone by then.
    """

    baseline_seconds: float | None
    probe_seconds: float
    answered: bool
    traffic: ByteCounts
    open_before: int
    closed: int
    released: int
    held_seconds: float

    def evidence(self) -> dict[str, Any]:
        """Return it as in the history."""
        normal = self.baseline_seconds
        return {
            "baseline_ms": None if normal is None else round(normal * 1000, 1),
            "probe_ms": round(self.probe_seconds * 1000, 1),
            "probe_answered": self.answered,
            "bytes_sent": self.traffic.sent,
            "bytes_received": self.traffic.received,
            "bytes_released": self.released,
            "connections": self.open_before,
            "connections_closed": self.closed,
            "held_seconds": round(self.held_seconds, 3),
        }


async def inject_edge_fault(
    fault: FaultSpec,
    fault_id: str,
    targets: Mapping[str, int],
    proxies: Proxies,
    stats: SocketStats,
    hold: Hold,
) -> Observed:
    """Break ``targets`` (edge -> its proxy's port, as ``stats`` sees it) while ``hold`` lasts.

    Returns whether all of them were observed, and what was measured on each.
    """
    baselines = {edge: await _baseline(fault, edge, port, stats) for edge, port in targets.items()}
    ports = set(targets.values())
    before = await stats.sockets(ports)
    async with AsyncExitStack() as probing:
        async with _broken(fault, fault_id, targets, proxies):
            # Bytes counted from here on move in spite of the fault.
            meters = EdgeTraffic(stats, targets)
            await probing.enter_async_context(meters.running())
            began = time.monotonic()
            probes = {e: asyncio.create_task(stats.probe(e, port)) for e, port in targets.items()}
            probing.push_async_callback(_cancel, list(probes.values()))
            await hold()
            held = time.monotonic() - began
            traffic = await meters.count()
            answers = {edge: _answer(probe, held) for edge, probe in probes.items()}
            after = await stats.sockets(ports)
        # What a closing fault held is lost.
        lost = fault.fault in _CLOSING
        released = dict.fromkeys(targets, 0) if lost else await _released(meters, traffic)
    measured = {
        edge: EdgeMeasurement(
            baselines[edge],
            *answers[edge],
            traffic[edge],
            len(before[port]),
            len(before[port].keys() - after[port].keys()),
            released[edge],
            held,
        )
        for edge, port in targets.items()
    }
    observed = all(was_observed(fault, seen) for seen in measured.values())
    left = await proxies.faults(targets)
    return observed, {
        edge: seen.evidence() | {"left": left[edge]} for edge, seen in measured.items()
    }


def was_observed(fault: FaultSpec, seen: EdgeMeasurement) -> bool:
    """Whether the measurement shows the fault on this edge, to a client that used it meanwhile."""
    if fault.fault in _CLOSING:
        return seen.closed > 0 or not seen.answered
    used = seen.traffic.sent > 0 or seen.released > 0
    latency = fault.attributes.get("latency", 0) / 1000 * len(_STREAMS[fault.stream])
    if latency > seen.held_seconds or fault.attributes.get("rate") == 0:
        # A stall. If only upstream is cut, a server may still send earlier responses.
        silent = seen.traffic.received == 0 or fault.stream == "up"
        return used and silent and not seen.answered
    if fault.fault == "latency":
        return used and seen.probe_seconds >= 0.9 * latency
    normal = seen.baseline_seconds
    slower = normal is not None and seen.probe_seconds > 3 * normal
    passed = seen.traffic.sent if fault.stream == "up" else seen.traffic.received
    return used and (slower or is_saturated(fault, passed, seen.held_seconds, seen.open_before))


def require_direct(urls: Iterable[str], proxies: Collection[int]) -> None:
    """Refuse URLs for the harness itself that lead through a proxy, given by their ports.

    The probes of ``inject_edge_fault`` use the proxies on purpose; ``SocketStats`` does not count
    their traffic.

    Raises:
        EdgeRefused: a URL has the port of a proxy.
    """
    for url in urls:
        if urlsplit(url).port in proxies:
            raise EdgeRefused(f"{url} leads through a proxy: only actors and probes use edges")


def _broken(
    fault: FaultSpec, fault_id: str, edges: Iterable[str], proxies: Proxies
) -> AbstractAsyncContextManager[None]:
    """Break the edges inside the block."""
    if fault.fault == "down":
        return proxies.down(*edges)
    attributes = tuple(sorted(fault.attributes.items()))
    toxics = (
        ProxyToxic(edge, fault.fault, stream, attributes, fault_id)
        for edge in edges
        for stream in _STREAMS[fault.stream]
    )
    return proxies.toxic(*toxics)


async def _baseline(fault: FaultSpec, edge: str, port: int, stats: SocketStats) -> float | None:
    """Measure the edge before the fault, for faults without a declared delay."""
    if fault.fault == "latency" or fault.fault in _CLOSING:
        return None
    return await asyncio.wait_for(stats.probe(edge, port), _BASELINE_SECONDS)


def _answer(probe: asyncio.Task[float | None], held: float) -> tuple[float, bool]:
    seconds = probe.result() if probe.done() else None
    return (held, False) if seconds is None else (seconds, True)


async def _cancel(probes: list[asyncio.Task[float | None]]) -> None:
    for probe in probes:
        probe.cancel()
    await asyncio.gather(*probes, return_exceptions=True)


async def _released(meters: EdgeTraffic, before: dict[str, ByteCounts]) -> dict[str, int]:
    """Count the bytes that reach the clients after the fault was removed."""
    give_up = time.monotonic() + _RELEASE_SECONDS
    while True:
        counts = await meters.count()
        now = {edge: seen.received - before[edge].received for edge, seen in counts.items()}
        if all(now.values()) or time.monotonic() > give_up:
            return now
        await asyncio.sleep(0.02)
