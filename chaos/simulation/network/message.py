"""A message on the simulated network, as a tap sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.simulation.kernel.node import Node
from chaos.simulation.network.toxics import Stream


@dataclass(slots=True)
class Message:
    """Bytes about to be delivered. ``number`` counts per edge and stream, from 1.

    ``connection`` counts per edge, from 1.
    """

    edge: str
    stream: Stream
    number: int
    data: bytes
    sender: Node
    receiver: Node
    connection: int = 0


Tap = Callable[[Message], bool]
"""Called with each message just before its delivery; returns False to lose it."""
