"""A handler: a function, the name of its tasks, and its limits."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast.errors import Misconfigured
from holdfast.model.claim import Announcement
from holdfast.model.lifecycle import Backoff
from holdfast.model.request import NAME_PATTERN, TIMEOUT_SECONDS_MAX

_MARK = "__holdfast_task__"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Mark:
    """What ``@task`` attaches to a function. A limit of None means the worker's setting."""

    name: str
    max_attempts: int | None
    timeout_seconds: float | None
    backoff: Backoff


@dataclass(frozen=True, slots=True)
class Handler:
    """A function ready to run as ``function(ctx, payload)``.

    It is awaited if ``is_async``, else called in a thread. A limit of None means the worker's
    setting.
    """

    name: str
    function: Callable[..., Any]
    is_async: bool
    max_attempts: int | None
    timeout_seconds: float | None
    backoff: Backoff

    @property
    def announcement(self) -> Announcement:
        """The name and limits that the worker announces to the API."""
        return Announcement(self.name, self.max_attempts, self.timeout_seconds)


def task(
    name: str,
    *,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    backoff: Backoff | None = None,
) -> Callable[[Function], Function]:
    """Mark ``fn(ctx, payload)`` as the handler of tasks named ``name``; it stays callable.

    It is registered only by a worker that loads its module. ``max_attempts`` and
    ``timeout_seconds`` (per attempt) are defaults for tasks submitted without them; ``backoff``
    sets the delays of retries.

    Raises:
        ValueError: a name or limit is invalid; the message says which and why.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"@task({name!r}): a name starts with a letter or _ and has at most 200 letters, "
            "digits, _ . : or -"
        )
    if max_attempts is not None and not 1 <= max_attempts <= 1000:
        raise ValueError(f"@task({name!r}): max_attempts must be 1..1000, not {max_attempts}")
    if timeout_seconds is not None and not 0 < timeout_seconds <= TIMEOUT_SECONDS_MAX:
        raise ValueError(
            f"@task({name!r}): timeout_seconds must be above 0 and at most "
            f"{TIMEOUT_SECONDS_MAX:.0f} (a week), not {timeout_seconds}"
        )
    mark = Mark(name, max_attempts, timeout_seconds, backoff or Backoff())

    def decorate(function: Function) -> Function:
        setattr(function, _MARK, mark)
        return function

    return decorate


def is_marked(candidate: object) -> bool:
    """Whether the candidate is a function marked by ``@task``."""
    return callable(candidate) and isinstance(getattr(candidate, _MARK, None), Mark)


def handler_of(function: Callable[..., Any]) -> Handler:
    """Return the handler of a marked function or bound method.

    Raises:
        Misconfigured: it is not marked, or cannot be called as ``fn(ctx, payload)``.
    """
    mark = getattr(function, _MARK, None)
    if not isinstance(mark, Mark):
        raise Misconfigured(f"{_place(function)} is not a task: decorate it with @task('name')")
    _check_signature(mark.name, function)
    return Handler(
        name=mark.name,
        function=function,
        is_async=inspect.iscoroutinefunction(function),
        max_attempts=mark.max_attempts,
        timeout_seconds=mark.timeout_seconds,
        backoff=mark.backoff,
    )


def _check_signature(name: str, function: Callable[..., Any]) -> None:
    where = f"task {name!r} ({_place(function)})"
    if inspect.isclass(function):
        raise Misconfigured(f"{where} is a class: @task is for functions")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Misconfigured(
            f"{where} is a generator: a handler returns its result and must not yield"
        )
    try:
        inspect.signature(function).bind("ctx", "payload")
    except TypeError as error:
        raise Misconfigured(
            f"{where} must take two positional arguments, (ctx, payload): {error}"
        ) from error


def _place(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
