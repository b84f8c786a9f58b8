"""The least that an effect in SQL costs: BEGIN, INSERT, COMMIT by asyncpg, without a scheduler.

``python -m loadtest.bare_inserts DATABASE_URL COUNT CONNECTIONS FILLER_BYTES RATE`` prints "ready"
once it is connected, waits for a line of input, runs COUNT transactions (RATE per second; 0: as
fast as they are answered) and prints their duration as JSON. It stays connected until its input
ends, so that the CPU time of its backends can still be read.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from uuid import uuid4

import asyncpg
import uvloop

from loadtest.inserts import INSERT, filler
from loadtest.transaction_results import Durations


async def main(url: str, count: int, connections: int, filler_bytes: int, rate: float) -> None:
    """Run the transactions over ``connections`` connections."""
    opened = [await asyncpg.connect(url) for _ in range(connections)]
    content, numbers = filler(filler_bytes), iter(range(count))
    await _line("ready")
    started = time.perf_counter()
    lanes = (_lane(each, content, numbers, started, rate) for each in opened)
    durations = list(chain.from_iterable(await asyncio.gather(*lanes)))
    seconds = time.perf_counter() - started
    await _line(json.dumps({"seconds": seconds, "each": asdict(Durations.of(durations))}))
    for connection in opened:
        await connection.close()


async def _lane(
    connection: asyncpg.Connection,
    content: str,
    numbers: Iterator[int],
    started: float,
    rate: float,
) -> list[float]:
    """Run transactions on one connection; return the seconds of each."""
    durations = []
    for number in numbers:
        if rate:
            await asyncio.sleep(started + number / rate - time.perf_counter())
        began = time.perf_counter()
        async with connection.transaction():
            await connection.execute(INSERT, uuid4(), content)
        durations.append(time.perf_counter() - began)
    return durations


async def _line(text: str) -> None:
    """Print a line and wait for the next line of input, or its end."""
    print(text, flush=True)
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    address, *sizes, per_second = sys.argv[1:]
    number, lanes, size = (int(each) for each in sizes)
    uvloop.run(main(address, number, lanes, size, float(per_second)))
