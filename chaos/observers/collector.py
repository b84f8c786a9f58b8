"""The receiver of spans: an independent observer that no fault affects.

``python -m chaos.observers.collector --file FILE`` accepts OTLP over HTTP (``POST /v1/traces``,
protobuf, also compressed) and appends each request unchanged before it answers. The requests are
decoded by ``chaos.observers.otlp`` when the run is over, and forwarded to the user's collector if
one is configured.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import httpx
import typer
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chaos.observers.serving import ignore_disconnect, serve

TRACES_PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"
FORWARD_ENDPOINT = "HOLDFAST_OTLP_ENDPOINT"
_LENGTH_BYTES = 4
_FORWARD_BATCH_BYTES = 1 << 20
_FORWARD_TIMEOUT_SECONDS = 5.0


class Collector:
    """Records every export in an append-only file: its length (big endian), then its bytes.

    Flushed to the kernel but not fsynced: no scenario kills this process, nor the machine.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("ab")

    def receive(self, export: bytes) -> None:
        """Record one request.

        Raises:
            DecodeError: it is none.
        """
        ExportTraceServiceRequest.FromString(export)
        self._file.write(len(export).to_bytes(_LENGTH_BYTES, "big") + export)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_exports(file: Path) -> list[bytes]:
    """Return the received requests in order; none if the file does not exist."""
    if not file.exists():
        return []
    text, place, found = file.read_bytes(), 0, []
    while place < len(text):
        begin = place + _LENGTH_BYTES
        place = begin + int.from_bytes(text[place:begin], "big")
        found.append(text[begin:place])
    return found


def forward_exports(exports: Sequence[bytes]) -> None:
    """Send what the collector of a run received to ``HOLDFAST_OTLP_ENDPOINT``, if that is set.

    A failure prints a line to stderr and does not affect the run.
    """
    endpoint = os.environ.get(FORWARD_ENDPOINT)
    if not endpoint:
        return
    try:
        with httpx.Client(trust_env=False, timeout=_FORWARD_TIMEOUT_SECONDS) as client:
            for batch in _batches(exports):
                client.post(
                    endpoint.rstrip("/") + TRACES_PATH,
                    content=batch,
                    headers={"content-type": PROTOBUF},
                ).raise_for_status()
    except httpx.HTTPError as error:
        print(f"spans were not forwarded to {endpoint}: {error!r}", file=sys.stderr)


def _batches(exports: Sequence[bytes]) -> Iterator[bytes]:
    """Concatenate exports: concatenated protobuf messages merge their repeated fields."""
    batch = b""
    for export in exports:
        if batch and len(batch) + len(export) > _FORWARD_BATCH_BYTES:
            yield batch
            batch = b""
        batch += export
    if batch:
        yield batch


def create_collector(collector: Collector) -> Starlette:
    """Create the HTTP application of a collector."""
    accepted = ExportTraceServiceResponse().SerializeToString()

    async def traces(request: Request) -> Response:
        body = await request.body()
        try:
            if request.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.receive(body)
        except (DecodeError, OSError, EOFError) as error:
            return JSONResponse({"error": f"no spans: {error}"}, status_code=400)
        return Response(accepted, media_type=PROTOBUF)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route(TRACES_PATH, traces, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", healthz),  # what the check of its container asks
        ],
        exception_handlers={ClientDisconnect: ignore_disconnect},
    )


def main(
    *,
    file: Annotated[Path, typer.Option(help="File that each export is appended to.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port_file: Annotated[Path | None, typer.Option(help="Where to write the port.")] = None,
) -> None:
    """Serve a collector until SIGTERM."""
    collector = Collector(file)
    try:
        serve(create_collector(collector), port, port_file, host=host)
    finally:
        collector.close()


if __name__ == "__main__":
    typer.run(main)
