"""Fixtures of tests that run roles as processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command import Command

from holdfast.settings import Settings


@pytest.fixture
def command(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(sys, "path", [*sys.path])  # a worker prepends its directory
    return Command(
        {
            "HOLDFAST_DATABASE_URL": settings.database_url,
            "HOLDFAST_REDIS_URL": settings.redis_url,
            "HOLDFAST_LOG_FORMAT": "json",
            "HOLDFAST_POLL_SECONDS": "0.2",
            "HOLDFAST_API_PORT": "0",
        },
        tmp_path,
    )
