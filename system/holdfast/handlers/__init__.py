"""The API for authors of handlers::

    from holdfast.handlers import Context, Discard, Retry, task

    @task("resize_image", max_attempts=3, timeout_seconds=60)
    async def resize_image(ctx: Context, payload: dict) -> dict:
        ...

An ``async`` function runs on the worker's event loop and must not block it; a plain function runs
in a thread. Its return value (JSON) becomes the task's effect, exactly once.
"""

from holdfast.errors import TaskLost
from holdfast.handlers.context import Context
from holdfast.handlers.errors import Discard, Retry
from holdfast.handlers.handler import Handler, task
from holdfast.handlers.registry import Registry
from holdfast.handlers.transaction import Transaction
from holdfast.model.lifecycle import Backoff

__all__ = [
    "Backoff",
    "Context",
    "Discard",
    "Handler",
    "Registry",
    "Retry",
    "TaskLost",
    "Transaction",
    "task",
]
