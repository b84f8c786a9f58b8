"""Inject faults into the simulated network and observe their effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from chaos.nemesis.process_faults import Hold, Observed
from chaos.scenario.faults import FaultSpec
from chaos.simulation.network.network import Edge, Network
from chaos.simulation.network.toxics import STREAMS, Stream, Toxic

_STREAMS: dict[str, tuple[Stream, ...]] = {
    "up": ("upstream",),
    "down": ("downstream",),
    "both": STREAMS,
}
_CLOSING = frozenset({"down", "timeout", "reset_peer", "limit_data"})


async def inject_edge_fault(
    plan: FaultSpec, names: tuple[str, ...], network: Network, hold: Hold
) -> Observed:
    """Break the edges while ``hold`` lasts. Observed: the fault affected traffic on each edge."""
    edges = [network.edge(name) for name in names]
    if plan.fault == "silent_drop":
        return await _drop_silently(edges, hold)
    before = [edge.counters() for edge in edges]
    with ExitStack() as broken:
        for edge in edges:
            broken.enter_context(_broken(plan, edge))
        await hold()
        held = [edge.counters() for edge in edges]
    evidence: dict[str, dict[str, Any]] = {}
    for edge, old, now in zip(edges, before, held, strict=True):
        after = edge.counters()
        evidence[edge.name] = {name: after[name] - count for name, count in old.items()} | {
            name: count for name, count in now.items() if name.startswith("held")
        }
        evidence[edge.name]["left"] = edge.faults()
    return all(_was_observed(plan, seen) for seen in evidence.values()), evidence


async def _drop_silently(edges: Sequence[Edge], hold: Hold) -> Observed:
    """Forget all open connections. Observed: they swallowed messages, and new ones were opened."""
    before = [edge.counters() for edge in edges]
    for edge in edges:
        edge.forget()
    await hold()
    evidence: dict[str, dict[str, Any]] = {}
    for edge, old in zip(edges, before, strict=True):
        now = edge.counters()
        evidence[edge.name] = {
            "swallowed": now["dropped_messages"] - old["dropped_messages"],
            "opened": now["opened"] - old["opened"],
            "left": edge.faults(),
        }
    return all(seen["swallowed"] and seen["opened"] for seen in evidence.values()), evidence


@contextmanager
def _broken(plan: FaultSpec, edge: Edge) -> Iterator[None]:
    """Break the edge inside the block."""
    if plan.fault == "down":
        edge.down()
        try:
            yield
        finally:
            edge.up()
        return
    toxics = [Toxic(plan.fault, stream, dict(plan.attributes)) for stream in _STREAMS[plan.stream]]
    for toxic in toxics:
        edge.add(toxic)
    try:
        yield
    finally:
        for toxic in toxics:
            edge.remove(toxic)


def _was_observed(plan: FaultSpec, seen: dict[str, Any]) -> bool:
    if plan.fault in _CLOSING:
        return bool(seen["closed"] or seen["refused"] or seen["dropped_messages"])
    # Messages still held at the end count as affected, and so do delayed ones.
    return bool(seen["held_messages"] or seen["slowed_messages"])
