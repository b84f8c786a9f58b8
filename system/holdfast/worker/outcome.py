"""What a handler did: it returned or it raised. Nothing that it raises gets past this module."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from holdfast.runtime.supervision import cancelled_from_outside
from holdfast.worker.error_detail import error_detail, text_of, type_name


class Returned:
    """The handler returned ``value``, which may be anything, even an exception."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Raised:
    """The handler raised ``error``."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def is_a(self, *kinds: type[BaseException]) -> bool:
        """Return whether it is one of these, by its real class: ``__class__`` may raise."""
        return issubclass(type(self.error), kinds)

    @cached_property
    def detail(self) -> str:
        """The error as JSON that Postgres can store."""
        return error_detail(self.error)


Outcome = Returned | Raised


async def of_coroutine(start: Callable[[], Awaitable[Any]]) -> Outcome:
    """Await a handler; ``start`` calls it.

    Raises:
        asyncio.CancelledError: the worker cancelled it, and it let the cancellation through.
    """
    process = os.getpid()
    try:
        value = await start()
    except BaseException as error:
        _end_forked_child(process, error)
        if issubclass(type(error), asyncio.CancelledError) and cancelled_from_outside():
            raise
        return Raised(_explained(error))
    _end_forked_child(process)
    return Returned(value)


def of_function(call: Callable[[], Any]) -> Outcome:
    """Call a plain handler in this thread, where its exception is described too."""
    process = os.getpid()
    try:
        value = call()
    except BaseException as error:  # noqa: BLE001  every outcome is classified
        _end_forked_child(process, error)
        outcome = Raised(_explained(error))
        _ = outcome.detail  # it calls the handler's code, which may block: not on the event loop
        return outcome
    _end_forked_child(process)
    return Returned(value)


def _explained(error: BaseException) -> BaseException:
    """Return an error that says what an exception means that would end a process or a task."""
    kind = type(error)
    if issubclass(kind, SystemExit):
        code = text_of(error, lambda exit_: repr(_exit_code(exit_)))
        text = f"the handler called sys.exit({code})"
    elif issubclass(kind, KeyboardInterrupt | StopIteration | asyncio.CancelledError):
        text = f"the handler raised {type_name(error)}: {text_of(error)}"
    else:
        return error
    explained = RuntimeError(text)
    explained.__cause__ = error
    return explained


def _exit_code(error: BaseException) -> object:
    return SystemExit.__dict__["code"].__get__(error)


def _end_forked_child(process: int, error: BaseException | None = None) -> None:
    """End a child that a handler forked and that is about to leave the handler too.

    It would go on as a second worker, on the connections of the first.
    """
    if os.getpid() == process:
        return
    code = _exit_code(error) if isinstance(error, SystemExit) else int(error is not None)
    os._exit(code if isinstance(code, int) else int(code is not None))
