"""The handlers for trials: what their payloads leave out."""

from __future__ import annotations

from holdfast.handlers.builtin.basic import SleepPayload
from holdfast.handlers.builtin.payload import parse


def test_sleep_takes_a_second_unless_the_payload_says_otherwise() -> None:
    assert parse(SleepPayload, "sleep", {}).seconds == 1.0
    assert parse(SleepPayload, "sleep", {"seconds": 0.25}).seconds == 0.25
