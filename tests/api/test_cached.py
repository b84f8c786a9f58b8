"""Cached reads: how long a value and an error are kept, and who shares them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from holdfast.api.cached import Cached
from holdfast.api.database_clock import DatabaseClock
from holdfast.errors import Unavailable


class Source:
    """Counts its reads; each takes 10 ms and fails while ``down``."""

    def __init__(self) -> None:
        self.reads = 0
        self.down = False

    async def read(self) -> int:
        self.reads += 1
        await asyncio.sleep(0.01)
        if self.down:
            raise Unavailable("down")
        return self.reads


async def test_value_is_kept_until_it_expires() -> None:
    source = Source()
    cached = Cached(source.read, 0.1)
    assert [await cached.get(), await cached.get()] == [1, 1]
    await asyncio.sleep(0.11)
    assert await cached.get() == 2


async def test_concurrent_callers_share_one_read() -> None:
    source = Source()
    cached = Cached(source.read, 60.0)
    assert await asyncio.gather(*(cached.get() for _ in range(10))) == [1] * 10


@pytest.mark.parametrize(
    ("options", "reads"), [({}, 2), ({"error_seconds": 0.0}, 2), ({"error_seconds": 60.0}, 1)]
)
async def test_error_is_shared_and_kept_for_error_seconds(
    options: dict[str, float], reads: int
) -> None:
    source = Source()
    source.down = True
    cached = Cached(source.read, 60.0, **options)
    results = await asyncio.gather(*(cached.get() for _ in range(10)), return_exceptions=True)
    assert [str(result) for result in results] == ["down"] * 10
    assert source.reads == 1
    with pytest.raises(Unavailable, match="down"):
        await cached.get()
    assert source.reads == reads


async def test_database_clock_advances_from_the_instant_of_its_read() -> None:
    read_at = datetime(2026, 1, 9, tzinfo=UTC)

    async def read() -> datetime:
        return read_at

    clock, started = DatabaseClock(read), asyncio.get_running_loop().time()
    first = (await clock.now() - read_at).total_seconds()
    await asyncio.sleep(0.02)
    second = (await clock.now() - read_at).total_seconds()
    assert 0 <= first < second <= asyncio.get_running_loop().time() - started
