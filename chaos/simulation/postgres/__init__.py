"""Postgres in a simulated run: a real server, behind a bridge from virtual time to real sockets.

Each simulated connection has a real backend; what arrives is asked there by blocking I/O, at zero
virtual time. Two things take time: a statement that waits for a lock is parked (its backend stands
still until a seed picks it), and a share of the single statements hold their COMMIT back for a
while, so that other statements overlap them. ``clock_timestamp()`` is the simulation's.
"""

from chaos.simulation.postgres.node import PostgresNode
from chaos.simulation.postgres.server import SharedPostgres
from chaos.simulation.postgres.statement import ExecutedStatement

__all__ = ["ExecutedStatement", "PostgresNode", "SharedPostgres"]
