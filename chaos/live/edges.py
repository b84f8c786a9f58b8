"""Faults of the network: Toxiproxy's toxics on edges, and the measurement that they were felt."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from chaos.live.toxics import Proxies, Stream, Toxic
from chaos.live.wire import Meter, Traffic, client_bytes, metered
from chaos.nemesis import Felt, Hold
from chaos.plan import FaultPlan

# Something every server answers at once, without a login.
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
_REQUESTS = {"postgres": _SSL_REQUEST, "redis": b"PING\r\n"}
_HTTP = b"GET /healthz HTTP/1.0\r\n\r\n"
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
class Measured:
    """What was seen of one edge. ``probe_seconds``: how long the harness's own request through
    the same proxy took, or had waited in vain when the fault was lifted (``answered`` False).
    ``closed``: how many of the connections that were open before were gone by then.
    """

    baseline_seconds: float | None
    probe_seconds: float
    answered: bool
    traffic: Traffic
    open_before: int
    closed: int
    released: int
    held_seconds: float

    def evidence(self) -> dict[str, Any]:
        """As it goes into the history."""
        return {
            "probe_ms": round(self.probe_seconds * 1000, 1),
            "probe_answered": self.answered,
            "bytes_sent": self.traffic.sent,
            "bytes_received": self.traffic.received,
            "bytes_released": self.released,
            "connections": self.open_before,
            "connections_closed": self.closed,
            "held_seconds": round(self.held_seconds, 3),
        }


async def strike_edges(
    plan: FaultPlan, fault_id: str, targets: dict[str, int], proxies: Proxies, hold: Hold
) -> Felt:
    """Break ``targets`` (edge -> its port) while ``hold`` lasts.

    Returns whether every one of them was felt, and what was measured on each.
    """
    own: set[int] = set()  # what the harness itself sends must not count as the actor's
    baselines = {edge: await _baseline(plan, edge, port) for edge, port in targets.items()}
    before = {edge: set(client_bytes(port)) for edge, port in targets.items()}
    async with AsyncExitStack() as probing:
        async with AsyncExitStack() as broken:
            for edge in targets:
                if plan.fault == "down":
                    await broken.enter_async_context(proxies.down(edge))
                else:
                    toxics = _toxics(plan, fault_id, edge)
                    await broken.enter_async_context(proxies.toxic(*toxics))
            # Counted from here on: what moves now moves in spite of the fault.
            meters = {edge: Meter(port, own) for edge, port in targets.items()}
            await probing.enter_async_context(metered(list(meters.values())))
            struck = time.monotonic()
            probes = {e: asyncio.create_task(_probe(e, port, own)) for e, port in targets.items()}
            probing.push_async_callback(_cancel, list(probes.values()))
            await hold()
            held = time.monotonic() - struck
            traffic = {edge: meter.look() for edge, meter in meters.items()}
            answers = {edge: _answer(probe, held) for edge, probe in probes.items()}
            after = {edge: set(client_bytes(port)) for edge, port in targets.items()}
        released = await _released(meters, traffic)
    measured = {
        edge: Measured(
            baselines[edge],
            *answers[edge],
            traffic[edge],
            len(before[edge]),
            len(before[edge] - after[edge]),
            released[edge],
            held,
        )
        for edge in targets
    }
    felt = all(was_felt(plan, seen) for seen in measured.values())
    return felt, {edge: seen.evidence() for edge, seen in measured.items()}


def was_felt(plan: FaultPlan, seen: Measured) -> bool:
    """Whether the measurement shows the fault on this edge, to a client that used it meanwhile."""
    if plan.fault in _CLOSING:
        return seen.closed > 0 or not seen.answered
    used = seen.traffic.sent > 0 or seen.released > 0
    latency = plan.attributes.get("latency", 0) / 1000 * len(_STREAMS[plan.stream])
    if latency > seen.held_seconds or plan.attributes.get("rate") == 0:
        # A stall. A server may still push what it was asked for before, if only upstream is cut.
        silent = seen.traffic.received == 0 or plan.stream == "up"
        return used and silent and not seen.answered
    if plan.fault == "latency":
        return used and seen.probe_seconds >= 0.9 * latency
    normal = seen.baseline_seconds
    return used and normal is not None and seen.probe_seconds > 3 * normal


def _toxics(plan: FaultPlan, fault_id: str, edge: str) -> list[Toxic]:
    attributes = tuple(sorted(plan.attributes.items()))
    streams = _STREAMS[plan.stream]
    return [Toxic(edge, plan.fault, stream, attributes, fault_id) for stream in streams]


async def _baseline(plan: FaultPlan, edge: str, port: int) -> float | None:
    """How fast the edge is before the fault, for those faults whose delay has no number."""
    if plan.fault == "latency" or plan.fault in _CLOSING:
        return None
    return await asyncio.wait_for(_probe(edge, port, set()), _BASELINE_SECONDS)


async def _probe(edge: str, port: int, own: set[int]) -> float | None:
    """Seconds until the edge answers a request of our own; None when it closed instead.

    The local port is added to ``own``.
    """
    started = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    own.add(writer.get_extra_info("sockname")[1])
    try:
        writer.write(_REQUESTS.get(edge.partition("->")[2], _HTTP))
        answer = await reader.read(1)
    except OSError:
        return None
    finally:
        writer.close()
    return time.monotonic() - started if answer else None


def _answer(probe: asyncio.Task[float | None], held: float) -> tuple[float, bool]:
    seconds = probe.result() if probe.done() else None
    return (held, False) if seconds is None else (seconds, True)


async def _cancel(probes: list[asyncio.Task[float | None]]) -> None:
    for probe in probes:
        probe.cancel()
    await asyncio.gather(*probes, return_exceptions=True)


async def _released(meters: dict[str, Meter], before: dict[str, Traffic]) -> dict[str, int]:
    """Bytes that arrived at the clients once the fault was lifted."""
    give_up = time.monotonic() + _RELEASE_SECONDS
    while True:
        now = {e: meter.look().received - before[e].received for e, meter in meters.items()}
        if all(now.values()) or time.monotonic() > give_up:
            return now
        await asyncio.sleep(0.02)
