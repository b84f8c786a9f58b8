"""Redis in a simulated run: a real Valkey, behind a bridge from virtual time to real sockets.

Each simulated connection has a real one; what arrives is asked there by blocking I/O, at zero
virtual time. Only waiting is different: a command that would wait in the server is tried at once
(inside MULTI and EXEC, where Redis never waits, and the shape of the answer is the same). If there
is nothing, it is parked here, first come first served, and tried again after each command that
names one of its keys; a virtual timer gives it up.
"""

from chaos.simulation.valkey.node import ValkeyNode
from chaos.simulation.valkey.server import SharedValkey, ValkeyGone

__all__ = ["SharedValkey", "ValkeyGone", "ValkeyNode"]
