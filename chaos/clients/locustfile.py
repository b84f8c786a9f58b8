"""Run the clients with Locust: ``python -m locust -f chaos/clients/locustfile.py --headless``.

Each user is one client (``chaos.clients.client``) that records every operation as invoke and
completion.

Environment: CHAOS_APIS (JSON list of URLs, spread over the clients), CHAOS_OPERATIONS (file with
the JSON list of operations), CHAOS_OPS (JSON lines to write), CHAOS_START (file that appears with
the Unix time of arena second 0). Locust makes ``time.sleep`` cooperative.
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

from chaos.clients.client import Client, OperationLog, Request, Response, api_of
from chaos.history.history import HistoryWriter
from chaos.scenario.workload import CLIENT_TIMEOUT_SECONDS, CLIENTS, from_json


class ClientRun:
    """What all users of this process share: the operations, the clock, the log."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        operations = Path(environment["CHAOS_OPERATIONS"]).read_text(encoding="utf-8")
        self.operations = from_json(json.loads(operations))
        self.history = HistoryWriter(Path(environment["CHAOS_OPS"]))
        self.apis: list[str] = json.loads(environment["CHAOS_APIS"])
        self._start_file = Path(environment["CHAOS_START"])
        self._zero: float | None = None
        self.log = OperationLog(self.history.write, lambda: self.zero, time.time)
        self.numbers = itertools.count()
        self.working = CLIENTS

    @property
    def zero(self) -> float:
        """The Unix time of arena second 0; waits until it is known."""
        while self._zero is None:
            if self._start_file.exists():
                self._zero = float(self._start_file.read_text(encoding="ascii"))
            else:
                time.sleep(0.01)
        return self._zero


class ClientUser(HttpUser):
    """One client, with one operation at a time."""

    wait_time = constant(0)

    shared: ClientRun

    def on_start(self) -> None:
        number = next(self.shared.numbers)
        self.client.base_url = api_of(number, self.shared.apis)
        self.chaos_client = Client(number, self.shared.operations, self.shared.log)

    @task
    def work(self) -> None:
        """Run the client's whole share; the process ends with its last user."""
        while (due := self.chaos_client.due) is not None:
            time.sleep(max(0.0, due - self.shared.log.now()))
            request = self.chaos_client.next_request()
            if request is not None:
                self.chaos_client.handle_response(self._send(request))
        self.shared.working -= 1
        if self.shared.working == 0:
            self.shared.history.close()
            self.environment.runner.quit()
        raise StopUser

    def _send(self, request: Request) -> Response:
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
            error = None if response.error is None else repr(response.error)[:300]
            # The checker judges Holdfast from the history; Locust must not count failures.
            response.success()
            return Response(response.status_code, _body(response), error)


def _share_clients(**_: Any) -> None:
    ClientUser.shared = ClientRun(os.environ)


# On init rather than on import, because Locust imports this file more than once.
events.init.add_listener(_share_clients)  # type: ignore[no-untyped-call]


def _body(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
