"""Cached reads: how long a value and an error are kept, and who shares them."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.api.cached import Cached
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


@pytest.mark.parametrize(("error_seconds", "reads"), [(0.0, 2), (60.0, 1)])
async def test_error_is_shared_and_kept_for_error_seconds(error_seconds: float, reads: int) -> None:
    source = Source()
    source.down = True
    cached = Cached(source.read, 60.0, error_seconds=error_seconds)
    results = await asyncio.gather(*(cached.get() for _ in range(10)), return_exceptions=True)
    assert [str(result) for result in results] == ["down"] * 10
    assert source.reads == 1
    with pytest.raises(Unavailable, match="down"):
        await cached.get()
    assert source.reads == reads
