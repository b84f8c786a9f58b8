"""The outcome of a statement, for listeners of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutedStatement:
    """An answered statement. ``at``: virtual seconds.

    ``client``: the node that sent it. ``outcome``: the command tag ("SELECT 3"), or the SQLSTATE.
    ``parked``: it waited for a lock. ``held``: its commit came later than its work.
    ``open``: it left a transaction open.
    """

    at: float
    client: str
    name: str
    outcome: str
    failed: bool
    parked: bool
    held: bool
    open: bool
