"""A wait that times out says what it waited for."""

from __future__ import annotations

import asyncio

import pytest
from waiting import until, wait_until, within


async def test_timeout_names_the_condition_and_what_is_still_open() -> None:
    opened = {"task 7"}
    with pytest.raises(TimeoutError, match=r"within 0.02 s: .*not opened.*still open: .*task 7"):
        await until(lambda: not opened, 0.02, lambda: opened)


def test_timeout_outside_a_loop_names_the_condition() -> None:
    opened = {"task 7"}
    with pytest.raises(TimeoutError, match=r"within 0.01 s: .*not opened.*still open: .*task 7"):
        wait_until(lambda: not opened, 0.01, lambda: opened)


async def test_timeout_of_the_condition_itself_is_not_replaced() -> None:
    async def times_out() -> bool:
        raise TimeoutError("of the statement")

    with pytest.raises(TimeoutError, match="of the statement"):
        await until(times_out, 5.0)


async def test_what_does_not_end_in_time_is_cancelled_after_it_was_described() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(event.wait())
    with pytest.raises(TimeoutError, match=r"not done within 0.01 s; still open: cancelling: 0"):
        await within(waiting, lambda: f"cancelling: {waiting.cancelling()}", 0.01)
    assert waiting.cancelling()


async def test_result_and_error_of_what_ends_in_time_are_passed_on() -> None:
    async def fails() -> None:
        raise ValueError("its own")

    assert await within(asyncio.sleep(0, "result"), lambda: "") == "result"
    with pytest.raises(ValueError, match="its own"):
        await within(fails(), lambda: "")
