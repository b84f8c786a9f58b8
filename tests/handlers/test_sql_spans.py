"""The listener that records the handlers' SQL: it must not disturb what it listens to."""

from __future__ import annotations

import asyncio

import pytest
from otlp_receiver import receiving
from sqlalchemy import event
from waiting import until
from wire import wire_to

from holdfast.handlers.sql_spans import SqlSpans
from holdfast.settings import Settings
from holdfast.store.connections import checkout, create_engine
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import span_destination
from holdfast.telemetry.tracing import create_tracing


async def test_cancelled_while_the_first_connection_is_prepared(settings: Settings) -> None:
    """SQLAlchemy's connection has no ``info`` yet; `cancel_storm` found it under seed 51."""
    held = asyncio.Event()
    async with receiving() as collector, wire_to(settings.database_url) as wire:
        here = settings.model_copy(update={"database_url": wire.url})
        engine = create_engine(here, connections=1, application_name="test", autocommit=False)
        tracing = create_tracing(
            span_destination(collector.url, {}),
            1.0,
            Metrics("test"),
            create_logger(level="ERROR"),
            role="worker",
            label="w",
            version="1",
        )
        SqlSpans(tracing, engine)

        def hold(*_: object) -> None:
            wire.hold_replies()
            held.set()

        event.listen(engine.sync_engine, "connect", hold, insert=True)
        connecting = asyncio.create_task(checkout(engine))
        await until(held.is_set)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        wire.heal()
        await engine.dispose()
