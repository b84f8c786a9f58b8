"""Run every program of system/examples as its README says, on real roles and servers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from bench import Bench

from holdfast.api.app import create_api
from holdfast.model.lifecycle import Reason, State
from holdfast.runtime.health import start_server, stop_server

EXAMPLES = Path(__file__).parents[2] / "system" / "examples"
RUN_SECONDS = 40.0

pytestmark = pytest.mark.stack


@dataclass
class Program:
    """One example: its handlers run in the worker of the stack, its main program beside it."""

    name: str
    environment: dict[str, str]

    async def run(self, *arguments: str) -> list[str]:
        """Run the program until it exits; return the lines it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLES / f"{self.name}.py"),
            *arguments,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(RUN_SECONDS):
                printed, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        return printed.decode().splitlines()

    async def submit(self, *arguments: str) -> UUID:
        """Run a program that prints the id of one task; return the id."""
        (line,) = await self.run(*arguments)
        return UUID(line.removeprefix("task "))


@asynccontextmanager
async def stack_with(bench: Bench, name: str) -> AsyncIterator[Program]:
    """An API, a scheduler and a worker with the handlers of one example."""
    bench.registry.load(f"system.examples.{name}")
    async with bench.worker(), bench.scheduler():
        server, serving = await start_server(
            create_api(bench.quick(log_level="ERROR")), "127.0.0.1", 0
        )
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        own = {
            "HOLDFAST_URL": f"http://127.0.0.1:{server.port}",
            "HOLDFAST_DATABASE_URL": bench.settings.database_url,
            "PYTHONPATH": str(EXAMPLES.parent),
            "PYTHONUNBUFFERED": "1",
        }
        try:
            yield Program(name, {**clean, **own})
        finally:
            await stop_server(server, serving)


async def test_submit_and_wait(bench: Bench) -> None:
    async with stack_with(bench, "submit_and_wait") as program:
        assert await program.run("exactly", "three", "words") == ["SUCCEEDED {'words': 3}"]
    assert bench.sql("SELECT result FROM effects") == [({"words": 3},)]


async def test_enqueue_in_transaction(bench: Bench) -> None:
    async with stack_with(bench, "enqueue_in_transaction") as program:
        task_id = await program.submit("pencil", "2")
        assert await program.run("pencil", "0") == [
            "rolled back: an order needs at least one piece"
        ]
        await bench.until_state(task_id, State.SUCCEEDED)
    assert bench.sql("SELECT item, pieces FROM orders") == [("pencil", 2)]
    assert bench.sql("SELECT id FROM tasks") == [(task_id,)]
    assert bench.sql("SELECT result FROM effects") == [("order 1 confirmed",)]


async def test_sql_effect_happens_once_although_the_first_attempt_fails_after_it(
    bench: Bench,
) -> None:
    async with stack_with(bench, "sql_effect") as program:
        transferred = await program.submit("300")
        await bench.until_state(transferred, State.SUCCEEDED)
        refused = await program.submit("5000")
        await bench.until_state(refused, State.FAILED)
    assert (await bench.story(transferred)).task.attempt == 2
    assert bench.sql("SELECT owner, cents FROM accounts ORDER BY owner") == [
        ("ann", 700),
        ("bob", 300),
    ]
    assert bench.sql("SELECT task_id, result FROM effects") == [(transferred, {"left": 700})]


async def test_http_effect_is_applied_once_although_it_is_called_twice(bench: Bench) -> None:
    async with stack_with(bench, "http_effect") as program:
        first, *answers = await program.run()
        assert answers == ["charges applied: 1"]
        task_id = UUID(first.removeprefix("task "))
        await bench.until_state(task_id, State.SUCCEEDED)
    assert (await bench.story(task_id)).task.attempt == 2
    assert bench.sql("SELECT task_id, result FROM effects") == [(task_id, 200)]


async def test_cancel_and_retry(bench: Bench) -> None:
    async with stack_with(bench, "cancel_and_retry") as program:
        assert await program.run() == [
            "export CANCELLED None 1",
            "fetch_rate SUCCEEDED EUR at attempt 3 3",
            "fetch_rate FAILED None 1",
        ]
    assert bench.sql("SELECT result FROM effects") == [("EUR at attempt 3",)]
    ids = [row[0] for row in bench.sql("SELECT id FROM tasks ORDER BY id")]
    cancelled, retried, discarded = [await bench.reasons(task_id) for task_id in ids]
    assert cancelled[-2:] == [Reason.CANCEL_REQUESTED, Reason.CANCELLED]
    assert retried.count(Reason.FAILED) == 2
    assert discarded[-1] is Reason.DISCARDED


def test_every_example_is_run_by_a_test(request: pytest.FixtureRequest) -> None:
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    tests = [name for name in vars(request.module) if name.startswith("test_")]
    for program in programs:
        assert any(name.startswith(f"test_{program}") for name in tests), program
