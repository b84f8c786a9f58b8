"""Show a run to Prometheus: the roles to be scraped, and the active faults.

The list is a file for Prometheus' ``file_sd_configs``. It exists during the run and includes the
harness, which serves ``holdfast_chaos_fault_active`` on a port of its own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chaos.history.records import Fault, Record
from holdfast.runtime.health import start_server, stop_server

_HOST = "127.0.0.1"


class FaultGauge:
    """A gauge for each fault and target of the run: 1 while the fault is active, else 0."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._active = Gauge(
            "holdfast_chaos_fault_active",
            "Active injections of this fault into this target",
            ["fault", "target"],
            registry=self._registry,
        )

    def count(self, record: Record) -> None:
        """Count a fault from its start to its end; ignore other records."""
        if isinstance(record, Fault) and record.type in {"start", "end"}:
            for target in record.targets:
                change = 1 if record.type == "start" else -1
                self._active.labels(record.fault, target).inc(change)

    def app(self) -> Starlette:
        """Create the application that serves ``/metrics``."""

        async def scrape(request: Request) -> Response:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
            return Response(encode(self._registry), media_type=content_type)

        return Starlette(routes=[Route("/metrics", scrape)])


@contextlib.asynccontextmanager
async def exposed(
    targets: Path | None, ports: Mapping[str, int]
) -> AsyncIterator[Callable[[Record], None]]:
    """List the ``ports`` of the roles in the file ``targets`` inside the block.

    Yields a function that takes every record. Without ``targets`` no metrics are served.
    """
    gauge = FaultGauge()
    if targets is None:
        yield gauge.count
        return
    server, serving = await start_server(gauge.app(), _HOST, 0)
    listed = [_entry(f"holdfast-{name.partition('-')[0]}", name, ports[name]) for name in ports]
    listed.append(_entry("holdfast-chaos", "chaos", server.port))
    targets.parent.mkdir(parents=True, exist_ok=True)
    draft = targets.with_suffix(".draft")
    draft.write_text(json.dumps(listed), encoding="utf-8")
    draft.rename(targets)  # atomic for Prometheus
    try:
        yield gauge.count
    finally:
        targets.unlink(missing_ok=True)
        await stop_server(server, serving)


def _entry(job: str, instance: str, port: int) -> dict[str, object]:
    return {"targets": [f"{_HOST}:{port}"], "labels": {"job": job, "instance": instance}}
