"""The receiver of external effects: an independent observer that no fault affects.

``python -m chaos.observers.sink --port P --log FILE`` accepts ``POST /effects`` with the headers
``Idempotency-Key`` and ``Holdfast-Epoch`` and appends one JSON line per physical call before it
answers. The first call of a key is applied, the rest are duplicates. ``--no-dedupe`` applies every
call: the receiver for which exactly-once cannot be promised.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from chaos.observers.serving import ignore_disconnect, serve


@dataclass(frozen=True, slots=True)
class Call:
    """One physical call; ``at``: Unix time, ``applied``: whether it had an effect.

    ``seen``: what the calling attempt saw (``chaos.tasks.attempt``), as it sent it.
    """

    at: float
    key: str
    epoch: int | None
    task_id: str | None
    applied: bool
    seen: dict[str, Any] | None = None


class Sink:
    """Applies effects and records every call in an append-only file (JSON lines).

    Lines are flushed to the kernel but not fsynced: the file outlives the process, which is never
    killed by a scenario, and need not outlive the machine.
    """

    def __init__(self, log: Path, *, dedupe: bool = True) -> None:
        self._dedupe = dedupe
        self._file = log.open("a", encoding="utf-8")
        self._applied: set[str] = {call.key for call in read_calls(log) if call.applied}

    def receive(
        self, key: str, epoch: int | None, task_id: str | None, seen: dict[str, Any] | None = None
    ) -> Call:
        """Record one call; return it with whether it was applied."""
        applied = not (self._dedupe and key in self._applied)
        self._applied.add(key)
        call = Call(time.time(), key, epoch, task_id, applied, seen)
        self._file.write(json.dumps(asdict(call)) + "\n")
        self._file.flush()
        return call

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_calls(log: Path) -> list[Call]:
    """Return the calls recorded in ``log``, oldest first; none if the file does not exist."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").splitlines()
    return [Call(**json.loads(line)) for line in lines]


def create_sink(sink: Sink) -> FastAPI:
    """Create the HTTP application of a sink."""
    app = FastAPI(openapi_url=None, exception_handlers={ClientDisconnect: ignore_disconnect})

    @app.post("/effects")
    async def effect(request: Request) -> JSONResponse:
        key = request.headers.get("Idempotency-Key")
        if not key:
            return JSONResponse({"error": "an Idempotency-Key header is needed"}, status_code=400)
        body = await _json_object(request)
        epoch = request.headers.get("Holdfast-Epoch", "")
        task_id, seen = body.get("task_id"), body.get("seen")
        call = sink.receive(
            key,
            int(epoch) if epoch.isascii() and epoch.isdigit() else None,
            task_id if isinstance(task_id, str) else None,
            seen if isinstance(seen, dict) else None,
        )
        # A slow receiver: the effect has happened, but the response is late.
        delay = body.get("answer_after_seconds", 0)
        if isinstance(delay, int | float) and delay > 0:
            await asyncio.sleep(delay)
        return JSONResponse({"applied": call.applied}, status_code=201 if call.applied else 200)

    @app.get("/readyz")
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def main(
    *,
    log: Annotated[Path, typer.Option(help="File that each call is appended to.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    port_file: Annotated[Path | None, typer.Option(help="Where to write the port.")] = None,
    dedupe: Annotated[bool, typer.Option(help="Apply each key only once.")] = True,
) -> None:
    """Serve a sink until SIGTERM."""
    sink = Sink(log, dedupe=dedupe)
    try:
        serve(create_sink(sink), port, port_file, host=host)
    finally:
        sink.close()


if __name__ == "__main__":
    typer.run(main)
