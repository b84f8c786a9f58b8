"""A workload that uses every source of nondeterminism; prints the digest of its run.

``python tests/support/simulation_specimen.py SEED``
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import random
import secrets
import socket
import sys
import time
import uuid

from chaos.simulation.kernel.loop import SimulationLoop


async def _stay(loop: SimulationLoop) -> None:
    try:
        await asyncio.sleep(random.uniform(0.5, 3))
    finally:
        loop.trace.note("sql", "guest", f"{uuid.uuid4()} {time.time_ns()}")


async def _process(loop: SimulationLoop) -> int:
    rng = random.Random()
    note = loop.trace.note
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.random() * 3), asyncio.TaskGroup() as group:
                for _ in range(40):
                    group.create_task(_stay(loop))
        note("sql", socket.gethostname(), f"{os.getpid()} {secrets.token_hex()} {rng.random()}")
        note("sql", "clocks", f"{dt.datetime.now(dt.UTC)} {time.time()} {time.monotonic()}")
        await asyncio.gather(*(asyncio.sleep(random.random()) for _ in range(20)))
        if random.random() < 0.1:
            os._exit(7)


def run(seed: int) -> str:
    """Simulate half a minute and return the digest of the trace."""
    loop = SimulationLoop(seed)

    async def main() -> None:
        nodes = [loop.start(f"n{number}", lambda: _process(loop)) for number in range(6)]
        for _ in range(30):
            await asyncio.sleep(1)
            node = random.choice(nodes)
            if not node.alive:
                nodes.remove(node)
                nodes.append(loop.start(node.name, lambda: _process(loop)))
            elif random.random() < 0.2:
                loop.kill(node)
            elif node.state == "paused":
                loop.resume(node)
            elif random.random() < 0.3:
                loop.pause(node)

    loop.run(main)
    loop.dispose()
    return loop.trace.digest


if __name__ == "__main__":
    print(run(int(sys.argv[1])))
