"""One handler: a function, the name of the tasks it runs, and its limits."""

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
    """What ``@task`` leaves on a function. None in a limit: the worker's setting decides."""

    name: str
    max_attempts: int | None
    timeout_seconds: float | None
    backoff: Backoff


@dataclass(frozen=True, slots=True)
class Handler:
    """A function ready to run. ``function(ctx, payload)`` is awaited if ``is_async``.

    A plain function (not ``is_async``) must be called in a thread. None in a limit: the worker's
    setting decides.
    """

    name: str
    function: Callable[..., Any]
    is_async: bool
    max_attempts: int | None
    timeout_seconds: float | None
    backoff: Backoff

    @property
    def announcement(self) -> Announcement:
        """What the API may know of it."""
        return Announcement(self.name, self.max_attempts, self.timeout_seconds)


def task(
    name: str,
    *,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    backoff: Backoff | None = None,
) -> Callable[[Function], Function]:
    """Mark ``fn(ctx, payload)`` as the handler of tasks called ``name``; it stays callable.

    It is registered only where a worker loads its module. Where a submitted task says nothing,
    ``max_attempts`` and ``timeout_seconds`` (of one attempt) hold; ``backoff`` spaces retries.

    Raises:
        ValueError: a name or limit is impossible; the message says which and why.
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
    """Whether ``@task`` stands on it."""
    return callable(candidate) and isinstance(getattr(candidate, _MARK, None), Mark)


def handler_of(function: Callable[..., Any]) -> Handler:
    """The handler that a marked function (or bound method) makes.

    Raises:
        Misconfigured: no ``@task`` on it, or it cannot be called as ``fn(ctx, payload)``.
    """
    mark = getattr(function, _MARK, None)
    if not isinstance(mark, Mark):
        raise Misconfigured(f"{_place(function)} is no task: put @task('name') above it")
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
        raise Misconfigured(f"{where} is a class: @task stands on functions")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Misconfigured(f"{where} is a generator: a handler returns its result, no yield")
    try:
        inspect.signature(function).bind("ctx", "payload")
    except TypeError as error:
        raise Misconfigured(
            f"{where} must take two positional arguments, (ctx, payload): {error}"
        ) from error


def _place(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
