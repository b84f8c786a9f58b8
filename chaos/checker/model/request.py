"""A submit: what was asked, what is stored for it, and which requests are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Self

from chaos.checker.model import json_value
from chaos.checker.model.configuration import Configuration
from chaos.tasks.declarations import Declaration


def instant(text: str) -> datetime:
    """Parse a date and time (RFC 3339); without an offset it is read as UTC.

    Raises:
        ValueError: it is not one.
    """
    read = datetime.fromisoformat(text)
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The fields of a submit (``TaskRequest`` of the API), with the documented defaults.

    ``run_at`` None: the time of the submit. A limit of None is left to the handler's declaration.
    """

    name: str
    payload: dict[str, Any] = field(default_factory=dict)
    run_at: datetime | None = None
    queue: str = "default"
    priority: int = 0
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    idempotency_key: str | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any], key: str | None = None) -> Self:
        """Return what a body asks for, sent with the header Idempotency-Key: ``key``.

        Fields that ``TaskRequest`` does not have are ignored, and null is as good as absent.
        """
        names = [each.name for each in fields(cls)]
        sent = {name: body[name] for name in names if body.get(name) is not None}
        if "run_at" in sent:
            sent["run_at"] = instant(sent["run_at"])
        if key is not None:
            sent["idempotency_key"] = key
        return cls(**sent)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,199}")
_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def invalid_fields(body: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields of a body that the OpenAPI document does not allow, except unknown ones."""
    return frozenset(
        name
        for name, allows in _ALLOWS.items()
        if (name == "name" or body.get(name) is not None) and not allows(body.get(name))
    )


def _is_instant(value: Any) -> bool:
    try:
        instant(value)
    except (TypeError, ValueError):
        return False
    return True


def _text(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


_ALLOWS: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "name": _text(_NAME),
        "payload": lambda value: isinstance(value, dict),
        "run_at": _is_instant,
        "queue": _text(_QUEUE),
        "priority": _whole(0, 9),
        "max_attempts": _whole(1, 1000),
        "timeout_seconds": lambda value: type(value) in {int, float} and 0 < value <= 604800,
        "idempotency_key": _text(_KEY),
    }
)


def same(one: Asked, other: Asked) -> bool:
    """Return whether two submits under one key ask for the same task, in every field."""
    return all(
        json_value.equal(getattr(one, each.name), getattr(other, each.name))
        for each in fields(Asked)
        if each.name != "run_at"
    ) and (one.run_at == other.run_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is stored of a submit; ``run_at`` None: the instant at which it was stored."""

    name: str
    payload: dict[str, Any]
    run_at: datetime | None
    queue: str
    priority: int
    max_attempts: int
    timeout_seconds: float
    idempotency_key: str | None
    max_losses: int


def stored(asked: Asked, declared: Declaration | None, configured: Configuration) -> Stored:
    """Return what is stored: limits as asked, else as the handler declares, else as configured."""
    attempts, timeout = asked.max_attempts, asked.timeout_seconds
    if declared is not None:
        attempts = declared.max_attempts if attempts is None else attempts
        timeout = declared.timeout_seconds if timeout is None else timeout
    return Stored(
        name=asked.name,
        payload=asked.payload,
        run_at=asked.run_at,
        queue=asked.queue,
        priority=asked.priority,
        max_attempts=configured.max_attempts if attempts is None else attempts,
        timeout_seconds=configured.attempt_timeout_seconds if timeout is None else timeout,
        idempotency_key=asked.idempotency_key,
        max_losses=configured.max_losses,
    )
