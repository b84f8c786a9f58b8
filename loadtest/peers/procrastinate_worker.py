"""One worker process of the Procrastinate peer: runs jobs until SIGTERM."""

from __future__ import annotations

import asyncio
import os

from loadtest.peers.procrastinate_peer import URL_VARIABLE, create_app

# The fastest of what was tried on two cores (CPU per job): 10, 20 and 50 jobs at once, with and
# without LISTEN. A backlog needs no wake-ups, so LISTEN only costs.
CONCURRENCY = 50


async def work() -> None:
    """Run jobs of the database named in the environment."""
    async with create_app(os.environ[URL_VARIABLE]).open_async() as app:
        await app.run_worker_async(concurrency=CONCURRENCY, listen_notify=False)


if __name__ == "__main__":
    asyncio.run(work())
