"""Submit a task over HTTP and wait until it has ended.

The Idempotency-Key makes the submit safe to repeat: after a timeout or a lost reply, send the same
request again, and the answer is the task that already exists.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any
from uuid import uuid4

import httpx

from holdfast import Context, task

TERMINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}


@task("count_words")
def count_words(ctx: Context, payload: dict[str, Any]) -> dict[str, int]:
    """Return the number of words; the return value is stored as the task's effect."""
    return {"words": len(payload["text"].split())}


def submit(api: httpx.Client, name: str, payload: dict[str, Any]) -> str:
    """Submit one task, retrying while the outcome is unknown; returns the task's id."""
    key = {"Idempotency-Key": str(uuid4())}
    while True:
        try:
            answer = api.post("/tasks/", json={"name": name, "payload": payload}, headers=key)
            if answer.status_code != 503:
                task_id: str = answer.raise_for_status().json()["id"]
                return task_id
        except httpx.TransportError as error:
            print("outcome unknown, sending again:", error)
        time.sleep(1)


def wait(api: httpx.Client, task_id: str) -> dict[str, Any]:
    """Poll until the task is in a terminal state; returns the task."""
    while True:
        found: dict[str, Any] = api.get(f"/tasks/{task_id}").raise_for_status().json()
        if found["state"] in TERMINAL:
            return found
        time.sleep(0.2)


if __name__ == "__main__":
    text = " ".join(sys.argv[1:]) or "each accepted task has its effect exactly once"
    with httpx.Client(base_url=os.environ.get("HOLDFAST_URL", "http://127.0.0.1:8000")) as client:
        ended = wait(client, submit(client, "count_words", {"text": text}))
    print(ended["state"], ended["result"])
