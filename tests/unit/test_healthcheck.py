"""The health check of a container: what it answers, and that Docker waits for it."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from holdfast.runtime import healthcheck

DOCKERFILE = Path(__file__).parents[2] / "system" / "Dockerfile"


def test_check_ends_before_docker_ends_it() -> None:
    (seconds,) = re.findall(
        r"^HEALTHCHECK .*--timeout=(\d+)s", DOCKERFILE.read_text(), re.MULTILINE
    )
    assert int(seconds) >= 2 * healthcheck._TIMEOUT_SECONDS, "it also has to start Python"


def test_silent_server_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "_TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer: TimeoutError" in (healthcheck.problem(silent.getsockname()[1]) or "")
