"""Cancellation and retries: what a handler raises, and what it notices.

A cancel of a running task is a request. An ``async`` handler gets CancelledError at its next await;
a plain function asks ``ctx.cancelled`` (or sleeps with ``ctx.cancelled_within``).
"""

from __future__ import annotations

import os
import time
from typing import Any

import httpx

from holdfast import Backoff, Context, Discard, Retry, task

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


@task("export")
def export(ctx: Context, payload: dict[str, Any]) -> None:
    """Write many pages, and stop soon after a cancel."""
    for _ in range(payload["pages"]):
        if ctx.cancelled_within(0.1):  # stands for the work on one page
            raise InterruptedError("stopped between two pages")


@task("fetch_rate", max_attempts=4, backoff=Backoff(base_seconds=0.2, max_seconds=5))
async def fetch_rate(ctx: Context, payload: dict[str, Any]) -> str:
    """Fail, request a delay, then succeed; or give up immediately."""
    if "currency" not in payload:
        raise Discard("no currency: no retry could help")  # FAILED: the dead letter
    if ctx.attempt == 1:
        raise ConnectionError("any exception fails the attempt; the backoff sets the delay")
    if ctx.attempt == 2:
        raise Retry(after=0.5, reason="the server is busy")
    return f"{payload['currency']} at attempt {ctx.attempt}"


def submit(api: httpx.Client, name: str, payload: dict[str, Any]) -> str:
    """Submit one task; returns its path in the API."""
    answer = api.post("/tasks/", json={"name": name, "payload": payload}).raise_for_status()
    return f"/tasks/{answer.json()['id']}"


def until(api: httpx.Client, path: str, *states: str) -> dict[str, Any]:
    """Poll until the task is in one of these states; returns the task."""
    while True:
        found: dict[str, Any] = api.get(path).raise_for_status().json()
        if found["state"] in states:
            return found
        time.sleep(0.1)


if __name__ == "__main__":
    with httpx.Client(base_url=os.environ.get("HOLDFAST_URL", "http://127.0.0.1:8000")) as client:
        long = submit(client, "export", {"pages": 6000})
        until(client, long, "RUNNING")
        client.post(f"{long}/cancel").raise_for_status()  # 202: requested
        retried = submit(client, "fetch_rate", {"currency": "EUR"})
        discarded = submit(client, "fetch_rate", {})
        for task_path in (long, retried, discarded):
            ended = until(client, task_path, *ENDED)
            print(ended["name"], ended["state"], ended["result"], ended["attempt"])
