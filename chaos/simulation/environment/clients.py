"""The clients of a simulated run: the same code as in the live arena, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from chaos.clients.client import Client, OperationLog, api_of
from chaos.clients.http import connection, send
from chaos.history.records import Op
from chaos.scenario.workload import CLIENTS, PlannedOperation


class SimulatedClients:
    """All clients of a run. ``record`` is called with each half of each operation.

    ``zero``: virtual Unix time of arena second 0. ``answered`` counts completed operations,
    whatever their outcome.
    """

    def __init__(
        self,
        operations: list[PlannedOperation],
        api_urls: Sequence[str],
        record: Callable[[Op], None],
        zero: Callable[[], float],
    ) -> None:
        self.answered = 0
        self._operations = operations
        self._api_urls = api_urls
        self._record = record
        self._log = OperationLog(self._note, zero, time.time)

    async def run(self) -> None:
        """Run all operations, including resends. Must be awaited on the clients' node."""
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._work(number), name=f"client-{number + 1}")

    def _note(self, op: Op) -> None:
        self.answered += op.type != "invoke"
        self._record(op)

    async def _work(self, number: int) -> None:
        client = Client(number, self._operations, self._log)
        async with connection(api_of(number, self._api_urls)) as http:
            while (due := client.due) is not None:
                await asyncio.sleep(max(0.0, due - self._log.now()))
                request = client.next_request()
                if request is not None:
                    client.handle_response(await send(http, request))
