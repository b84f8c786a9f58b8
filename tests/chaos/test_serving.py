"""The receivers of the harness tolerate requests that break off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from chaos.observers.collector import TRACES_PATH, Collector, create_collector, read_exports
from chaos.observers.sink import Sink, create_sink, read_calls


async def break_off(app: Starlette, path: str) -> None:
    """Send half a body and disconnect; raise what the receiver raises."""
    headers = [(b"host", b"x"), (b"idempotency-key", b"k"), (b"content-length", b"100")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": headers,
    }
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> dict[str, Any]:
        return next(messages, {"type": "http.disconnect"})

    async def send(_: Any) -> None:
        """Discard the response."""

    await app(scope, receive, send)


# Found by the crash sweep: "two_tasks: lose worker-1->sink up POST /effects body #1".
@pytest.mark.parametrize("receiver", ["sink", "collector"])
async def test_interrupted_request_is_neither_recorded_nor_an_error(
    receiver: str, tmp_path: Path
) -> None:
    file = tmp_path / "received"
    if receiver == "sink":
        sink = Sink(file)
        await break_off(create_sink(sink), "/effects")
        sink.close()
        assert read_calls(file) == []
    else:
        collector = Collector(file)
        await break_off(create_collector(collector), TRACES_PATH)
        collector.close()
        assert read_exports(file) == []
