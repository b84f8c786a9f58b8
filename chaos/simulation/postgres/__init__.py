"""Postgres in a simulated run: a real server, behind a bridge from virtual time to real sockets.

Each simulated connection has a real backend, which the bridge queries by blocking I/O at zero
virtual time. Two things take virtual time: a statement that waits for a lock is parked (its backend
is stopped until the seed picks it), and a share of the single statements hold their COMMIT for a
while, so that other statements overlap them. ``clock_timestamp()`` is virtual.
"""

from chaos.simulation.postgres.node import PostgresNode
from chaos.simulation.postgres.server import SharedPostgres
from chaos.simulation.postgres.statement import ExecutedStatement

__all__ = ["ExecutedStatement", "PostgresNode", "SharedPostgres"]
