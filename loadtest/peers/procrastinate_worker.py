"""One worker process of the Procrastinate peer: runs jobs until SIGTERM."""

from __future__ import annotations

import asyncio
import os

from loadtest.peers.procrastinate_peer import URL_VARIABLE, create_app

CONCURRENCY = 20


async def work() -> None:
    """Run jobs of the database named in the environment."""
    async with create_app(os.environ[URL_VARIABLE]).open_async() as app:
        await app.run_worker_async(concurrency=CONCURRENCY)


if __name__ == "__main__":
    asyncio.run(work())
