"""An effect in another system: an HTTP call with an idempotency key.

A call can be repeated (its reply may be lost, its worker may die), so the receiver must drop
repeats. ``ctx.effect_key`` is the same in every attempt; ``ctx.epoch`` grows with every attempt.
"""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx

from holdfast import Context, Discard, Retry, task


@task("charge", max_attempts=5, timeout_seconds=30)
async def charge(ctx: Context, payload: dict[str, Any]) -> int:
    """Charge a customer; repeats carry the same key."""
    headers = {"Idempotency-Key": ctx.effect_key, "Holdfast-Epoch": str(ctx.epoch)}
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.post(payload["url"], json=payload["order"], headers=headers)
    if answer.status_code >= 500:
        raise Retry(after=0.5, reason=f"the receiver answered {answer.status_code}")
    if answer.is_error:
        raise Discard(f"the receiver refused the charge: {answer.status_code}")
    return answer.status_code


class Receiver(BaseHTTPRequestHandler):
    """Applies each key once. Its first answer is an error, although the charge was applied."""

    applied: dict[str, bytes] = {}  # noqa: RUF012 - a receiver would keep this in its database

    def do_POST(self) -> None:
        key = self.headers["Idempotency-Key"]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 200 if key in self.applied else 503
        self.applied.setdefault(key, body)
        self.send_response(status)
        self.end_headers()


if __name__ == "__main__":
    api = os.environ.get("HOLDFAST_URL", "http://127.0.0.1:8000")
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        address = f"http://127.0.0.1:{server.server_port}/charges"
        charging = {"name": "charge", "payload": {"url": address, "order": {"cents": 1999}}}
        print("task", httpx.post(f"{api}/tasks/", json=charging).raise_for_status().json()["id"])
        for _ in range(2):  # the attempt that fails, and the one that succeeds
            server.handle_request()
    print("charges applied:", len(Receiver.applied))
