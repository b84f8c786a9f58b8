"""Redis in a simulated run: a real Valkey, behind a bridge from virtual time to real sockets.

Each simulated connection has a real one, which the bridge queries by blocking I/O at zero virtual
time. Only blocking reads differ: one is tried immediately (inside MULTI and EXEC, where Redis never
blocks, and the reply has the same shape). Without data it is parked here, in order of arrival, and
retried after each command that names one of its keys, until a virtual timer ends it.
"""

from chaos.simulation.valkey.node import ValkeyNode
from chaos.simulation.valkey.server import SharedValkey, ValkeyGone

__all__ = ["SharedValkey", "ValkeyGone", "ValkeyNode"]
