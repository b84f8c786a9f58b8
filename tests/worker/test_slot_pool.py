"""A slot pool on its own: what is logged when an attempt ends by a bug."""

from __future__ import annotations

import io
import json

import pytest

from holdfast.telemetry.event_names import EventName
from holdfast.telemetry.logs import create_logger
from holdfast.worker.slot_pool import SlotPool


@pytest.mark.parametrize("style", ["json", "text"])
async def test_a_crashed_attempt_is_logged_with_its_traceback(style: str) -> None:
    stream = io.StringIO()
    pool = SlotPool(1, create_logger(style=style, stream=stream))

    async def broken() -> None:
        raise LookupError("a bug of ours")

    pool.run(broken())
    assert await pool.wait(lambda: pool.idle, 1.0)
    text = stream.getvalue()
    if style == "json":
        fields = json.loads(text)
        assert fields["event_name"] == EventName.ATTEMPT_CRASHED
        assert "exc_info" not in fields
        text = fields["exception"]
    assert "Traceback (most recent call last)" in text
    assert "in broken" in text
    assert "LookupError: a bug of ours" in text
