"""Locust users for throughput: they submit single tasks, read them back, and list.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000
    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 50 -r 10 -t 1m

Each submit carries an Idempotency-Key of its own, as a careful client's would. With
HOLDFAST_API_KEYS set on the API, give one key to the users as HOLDFAST_API_KEY.
"""

from __future__ import annotations

import os
from collections import deque
from uuid import uuid4

from locust import FastHttpUser, between, task

REMEMBERED = 100


class Submitter(FastHttpUser):
    """Submits no-op tasks; now and then reads one of its own, or looks at the newest."""

    wait_time = between(0.01, 0.05)

    def on_start(self) -> None:
        """Every user remembers what it submitted last."""
        self._ids: deque[str] = deque(maxlen=REMEMBERED)
        key = os.environ.get("HOLDFAST_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @task(10)
    def submit(self) -> None:
        """Store one task, due at once."""
        headers = {**self._headers, "Idempotency-Key": str(uuid4())}
        body = {"name": "echo", "payload": {"from": "locust"}}
        with self.client.post(
            "/tasks/", json=body, headers=headers, catch_response=True
        ) as response:
            if response.status_code == 201:
                self._ids.append(response.json()["id"])
            else:
                response.failure(f"expected 201, not {response.status_code}: {response.text}")

    @task(4)
    def read(self) -> None:
        """Read the oldest task remembered: by now it has mostly succeeded."""
        if self._ids:
            name = "/tasks/{task_id}"
            self.client.get(f"/tasks/{self._ids.popleft()}", headers=self._headers, name=name)

    @task(1)
    def look(self) -> None:
        """List the newest tasks."""
        self.client.get("/tasks/?limit=20", headers=self._headers, name="/tasks/")
