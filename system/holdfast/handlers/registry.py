"""The handlers of a worker by task name. Nothing is registered by an import alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from holdfast.errors import Misconfigured
from holdfast.handlers.builtin import Builtins
from holdfast.handlers.handler import Function, Handler, handler_of, is_marked, task
from holdfast.model.claim import Announcement
from holdfast.model.lifecycle import Backoff
from holdfast.settings import Settings

__all__ = ["Handler", "Registry", "task"]


class Registry:
    """Handlers by task name. The owner calls ``close()`` after the last handler has ended."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._builtins: Builtins | None = None

    def add(self, function: Callable[..., Any]) -> Handler:
        """Register a function marked by ``@task``; registering it again is a no-op.

        Raises:
            Misconfigured: not marked, wrong signature, or another function has its name.
        """
        return self._register(handler_of(function))

    def task(
        self,
        name: str,
        *,
        max_attempts: int | None = None,
        timeout_seconds: float | None = None,
        backoff: Backoff | None = None,
    ) -> Callable[[Function], Function]:
        """Mark a function and register it here: ``@registry.task("name")``."""
        mark = task(
            name, max_attempts=max_attempts, timeout_seconds=timeout_seconds, backoff=backoff
        )

        def decorate(function: Function) -> Function:
            self.add(mark(function))
            return function

        return decorate

    def load(self, module_name: str) -> list[Handler]:
        """Import a module and register every marked function found in its namespace.

        Raises:
            Misconfigured: no such module, its import fails, it has no task, or a name is taken.
        """
        namespace = vars(_import(module_name))
        functions = [value for value in namespace.values() if is_marked(value)]
        if not functions:
            raise Misconfigured(
                f"module {module_name!r} has no tasks: mark functions with @task('name') "
                "from holdfast.handlers, or name the module that contains them"
            )
        return [self.add(function) for function in functions]

    def load_builtin(self, settings: Settings) -> list[Handler]:
        """Register echo, sleep, http_request and send_email; ``close()`` frees their resources.

        Raises:
            Misconfigured: a name is taken, or one of their settings is invalid.
        """
        self._builtins = Builtins(settings)
        return [self._register(handler) for handler in self._builtins.handlers()]

    def get(self, name: str) -> Handler | None:
        """Return the handler for tasks of that name, None without one."""
        return self._handlers.get(name)

    def announcements(self) -> list[Announcement]:
        """Return each task name with the limits of its handler, sorted by name."""
        return [self._handlers[name].announcement for name in sorted(self._handlers)]

    async def close(self) -> None:
        """Close the connections of the built-in handlers; idempotent."""
        if self._builtins is not None:
            await self._builtins.close()

    def _register(self, handler: Handler) -> Handler:
        existing = self._handlers.get(handler.name)
        if existing is not None and existing.function != handler.function:
            raise Misconfigured(
                f"two handlers for task {handler.name!r}: {_source(existing)} and "
                f"{_source(handler)}; rename one of them"
            )
        self._handlers[handler.name] = handler
        return handler


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise Misconfigured(
                f"no module {error.name!r}: write it as in an import statement (my.module), and "
                "start in a directory from which Python can import it, or set PYTHONPATH"
            ) from error
        raise Misconfigured(
            f"module {module_name!r} cannot be imported: it needs {error.name!r}, "
            "which is not installed"
        ) from error
    except Exception as error:
        raise Misconfigured(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _source(handler: Handler) -> str:
    function = handler.function
    return f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"
