"""A wait that times out says what it waited for."""

from __future__ import annotations

import pytest
from waiting import until, wait_until


async def test_timeout_names_the_condition_and_what_is_still_open() -> None:
    opened = {"task 7"}
    with pytest.raises(TimeoutError, match=r"within 0.02 s: .*not opened.*still open: .*task 7"):
        await until(lambda: not opened, 0.02, lambda: opened)


def test_timeout_outside_a_loop_names_the_condition() -> None:
    opened = {"task 7"}
    with pytest.raises(TimeoutError, match=r"within 0.01 s: .*not opened"):
        wait_until(lambda: not opened, 0.01)


async def test_timeout_of_the_condition_itself_is_not_replaced() -> None:
    async def times_out() -> bool:
        raise TimeoutError("of the statement")

    with pytest.raises(TimeoutError, match="of the statement"):
        await until(times_out, 5.0)
