"""Holdfast: a distributed task scheduler whose promises can be checked.

The names that applications use::

    from holdfast import Context, Discard, Retry, enqueue, task

Each name is imported on first use (PEP 562), so ``import holdfast`` loads nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.client import IdempotencyKeyReused, enqueue, enqueue_many
    from holdfast.errors import TaskLost, UnknownQueue
    from holdfast.handlers.context import Context
    from holdfast.handlers.errors import Discard, Retry
    from holdfast.handlers.handler import task
    from holdfast.handlers.transaction import Transaction
    from holdfast.model.lifecycle import Backoff
    from holdfast.model.request import TaskRequest

__all__ = [
    "Backoff",
    "Context",
    "Discard",
    "IdempotencyKeyReused",
    "Retry",
    "TaskLost",
    "TaskRequest",
    "Transaction",
    "UnknownQueue",
    "enqueue",
    "enqueue_many",
    "task",
]

if not TYPE_CHECKING:  # a type checker would accept any name from a module with __getattr__
    _MODULES = {
        "Backoff": "holdfast.model.lifecycle",
        "Context": "holdfast.handlers.context",
        "Discard": "holdfast.handlers.errors",
        "IdempotencyKeyReused": "holdfast.client",
        "Retry": "holdfast.handlers.errors",
        "TaskLost": "holdfast.errors",
        "TaskRequest": "holdfast.model.request",
        "Transaction": "holdfast.handlers.transaction",
        "UnknownQueue": "holdfast.errors",
        "enqueue": "holdfast.client",
        "enqueue_many": "holdfast.client",
        "task": "holdfast.handlers.handler",
    }

    def __getattr__(name: str) -> object:
        """Import a public name on first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """List the public names, imported or not."""
        return sorted({*globals(), *__all__})
