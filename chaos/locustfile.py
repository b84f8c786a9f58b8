"""The clients, driven by Locust: ``python -m locust -f chaos/locustfile.py --headless``.

Each user has one conversation (``chaos.conversation``) with its API, and writes down every
operation as invoke and completion.

Environment: CHAOS_APIS (JSON list of URLs, shared out among the clients), CHAOS_PLAN (JSON list of
operations), CHAOS_OPS (JSON lines to write), CHAOS_GO (a file that appears, with the Unix time of
arena second 0). ``time.sleep`` is made cooperative by Locust.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locust import HttpUser, constant, events, task
from locust.exception import StopUser

from chaos.conversation import Answer, Conversation, Meeting, Request, api_of
from chaos.history import HistoryWriter
from chaos.workload import CLIENT_TIMEOUT_SECONDS, CLIENTS, from_json


class Clients:
    """What all users of this process share: the plan, the clock, the record."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        plan = json.loads(Path(environment["CHAOS_PLAN"]).read_text(encoding="utf-8"))
        self.plan = from_json(plan)
        self.history = HistoryWriter(Path(environment["CHAOS_OPS"]))
        self.apis: list[str] = json.loads(environment["CHAOS_APIS"])
        self._go = Path(environment["CHAOS_GO"])
        self._zero: float | None = None
        self.meeting = Meeting(self.history.write, lambda: self.zero, time.time)
        self.numbers = itertools.count()
        self.working = CLIENTS

    @property
    def zero(self) -> float:
        """Unix time of arena second 0; waits for it."""
        while self._zero is None:
            if self._go.exists():
                self._zero = float(self._go.read_text(encoding="ascii"))
            else:
                time.sleep(0.01)
        return self._zero


class Client(HttpUser):
    """One client, with one operation at a time."""

    wait_time = constant(0)

    shared: Clients

    def on_start(self) -> None:
        number = next(self.shared.numbers)
        self.client.base_url = api_of(number, self.shared.apis)
        self.conversation = Conversation(number, self.shared.plan, self.shared.meeting)

    @task
    def work(self) -> None:
        """The whole share; then this user stops, and with the last one the process."""
        while (due := self.conversation.due) is not None:
            time.sleep(max(0.0, due - self.shared.meeting.now()))
            request = self.conversation.ask()
            if request is not None:
                self.conversation.hear(self._send(request))
        self.shared.working -= 1
        if self.shared.working == 0:
            self.shared.history.close()
            self.environment.runner.quit()
        raise StopUser

    def _send(self, request: Request) -> Answer:
        with self.client.request(
            request.method,
            request.path,
            name=request.name,
            json=request.body,
            headers=request.headers,
            timeout=CLIENT_TIMEOUT_SECONDS,
            allow_redirects=False,
            catch_response=True,
        ) as response:
            wrong = response.error
            error = None if wrong is None else repr(wrong)[:300]
            # Whether Holdfast did right is judged from the history, not by Locust.
            response.success()
            return Answer(response.status_code, _body(response), error)


def _share_clients(**_: Any) -> None:
    Client.shared = Clients(os.environ)


# Not when this file is imported: Locust itself imports it more than once.
events.init.add_listener(_share_clients)  # type: ignore[no-untyped-call]


def _body(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
