"""`holdfast up` end to end: the documented request works, and every child is restarted."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from waiting import wait_until

from holdfast.devstack import supervisor
from holdfast.devstack.host import EmbeddedError, claim_port, free_port, temporary_directory
from holdfast.devstack.reaper import Reaper, process_tree, still_running

SEED = {
    "name": "send_email",
    "payload": {"to": "user@example.com"},
    "run_at": "2026-01-09T10:00:00",
}


class Stack:
    """One `holdfast up` in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = directory / "terminal"
        self.api = httpx.Client(timeout=10)

    def up(self, *options: str) -> None:
        environment = {
            "HOLDFAST_API_PORT": str(free_port()),
            "HOLDFAST_SMTP_PORT": str(free_port()),
            "HOLDFAST_LEASE_SECONDS": "3",
            "HOLDFAST_HEARTBEAT_SECONDS": "0.5",
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast", "up", *options],
                cwd=self.directory,
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        output = wait_until(self.welcome)
        self.api.base_url = re.findall(r"API docs +(http://\S+)/docs", output)[0]
        self.mail = re.findall(r"mail caught +(http://\S+)/", output)[0]

    def welcome(self) -> str:
        output = self.output.read_text()
        assert self.process.poll() is None, f"it exited:\n{output}"
        return output if "--fresh starts over" in output else ""

    def pid_of(self, *words: str) -> int | None:
        """Return the descendant of the supervisor whose command line has all these words."""
        for pid in sorted(process_tree([self.process.pid]) - {self.process.pid}):
            try:
                command = psutil.Process(pid).cmdline()
            except psutil.Error:
                continue
            if all(any(word in part for part in command) for word in words):
                return pid
        return None

    def kill(self, *words: str) -> None:
        """Kill -9 the process once it runs, then wait until it is restarted."""
        pid = wait_until(lambda: self.pid_of(*words))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pid_of(*words) not in (pid, None))

    def submit(self, body: dict[str, Any]) -> str:
        reply = self.api.post("/tasks/", json=body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def state(self, task: str) -> str:
        try:
            reply = self.api.get(f"/tasks/{task}")
        except httpx.HTTPError as error:
            return repr(error)
        return str(reply.json().get("state"))

    def end(self, number: signal.Signals) -> set[int]:
        """Signal the supervisor and wait until it exits; return what remains of its tree."""
        tree = process_tree([self.process.pid])
        self.process.send_signal(number)
        self.process.wait(30)
        if number == signal.SIGKILL:
            wait_until(lambda: not still_running(tree))
        return still_running(tree)


@pytest.fixture
def stack(reaper: Reaper) -> Iterator[Stack]:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    stack = Stack(directory)
    stack.up()
    yield stack
    if stack.process.poll() is None:
        stack.end(signal.SIGTERM)
    stack.api.close()


def test_documented_request_works_and_data_is_kept(stack: Stack) -> None:
    task = stack.submit(SEED)
    wait_until(lambda: stack.state(task) == "SUCCEEDED")
    mails = httpx.get(f"{stack.mail}/messages").json()
    assert [mail["recipients"] for mail in mails] == [["user@example.com"]]
    assert task in mails[0]["message_id"]
    assert "user@example.com" in httpx.get(stack.mail).text
    assert stack.api.get("/docs").status_code == 200

    assert stack.end(signal.SIGINT) == set()
    assert stack.process.returncode == 0
    output = stack.output.read_text()
    environment = stack.directory / ".holdfast" / "environment"
    assert f"set -a; . {environment}" in output
    assert environment.stat().st_mode & 0o777 == 0o600
    passwords = re.findall(r"=\w+://\w*:(\w+)@", environment.read_text())
    assert len(passwords) == 2
    assert not [each for each in passwords if each in output], "output is captured and pasted"
    parts = ("API stopped", "Scheduler stopped", "Worker stopped", "holdfast    | stopped")
    ends = [output.index(part) for part in parts]
    assert ends == sorted(ends), "processes that accept work stop first"

    stack.up()
    assert stack.state(task) == "SUCCEEDED"
    assert stack.end(signal.SIGTERM) == set()
    stack.up("--fresh")
    assert stack.api.get(f"/tasks/{task}").status_code == 404


def test_killing_any_child_loses_nothing(stack: Stack) -> None:
    slow = [stack.submit({"name": "sleep", "payload": {"seconds": 2}}) for _ in range(8)]
    wait_until(lambda: {stack.state(task) for task in slow} == {"RUNNING"})
    stack.kill("holdfast", "worker")
    stack.kill("valkey-server")
    stack.kill("postgres", "-D")
    stack.kill("reaper.py")
    stack.kill("holdfast", "scheduler")
    stack.kill("holdfast", "mailcatcher")
    stack.kill("holdfast", "api")
    wait_until(lambda: {stack.state(task) for task in slow} == {"SUCCEEDED"})
    later = stack.submit({"name": "echo", "payload": {"n": 1}})
    wait_until(lambda: stack.state(later) == "SUCCEEDED")
    assert stack.end(signal.SIGKILL) == set()


def test_second_signal_kills_everything(stack: Stack) -> None:
    task = stack.submit({"name": "sleep", "payload": {"seconds": 60}})
    wait_until(lambda: stack.state(task) == "RUNNING")
    tree = process_tree([stack.process.pid])
    stack.process.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in stack.output.read_text())
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(10) == 1
    assert still_running(tree) == set()


async def test_directory_in_use_is_refused_with_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOCK_SECONDS", 0.1)
    with (tmp_path / "lock").open("a+b") as first, (tmp_path / "lock").open("a+b") as second:
        await supervisor._take(first, tmp_path)
        with pytest.raises(EmbeddedError, match=rf"process {os.getpid()}\) uses {tmp_path}"):
            await supervisor._take(second, tmp_path)


def test_port_in_use_is_skipped() -> None:
    preferred = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", preferred))
        taken.listen()
        claim = claim_port(preferred)
    assert preferred < claim.port < preferred + 100
    claim.release()


def test_claimed_port_is_skipped_until_it_is_released() -> None:
    preferred = free_port()
    first = claim_port(preferred)
    second = claim_port(preferred)
    assert first.port == preferred < second.port < preferred + 100
    first.release()
    third = claim_port(preferred)
    assert third.port == preferred
    for claim in (second, third):
        claim.release()
