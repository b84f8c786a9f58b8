"""Which names a worker can run. One registry per worker: nothing is registered by an import."""

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
    """Handlers by name. Its owner calls ``close()`` when no handler runs any more."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._builtins: Builtins | None = None

    def add(self, function: Callable[..., Any]) -> Handler:
        """Register a function marked by ``@task``; the same function twice is one handler.

        Raises:
            Misconfigured: not marked, impossible signature, or its name is taken by another one.
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
        """``@registry.task("name")``: mark a function and add it here, in one step."""
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
            Misconfigured: no such module, its import fails, no task in it, or a name is taken.
        """
        namespace = vars(_import(module_name))
        functions = [value for value in namespace.values() if is_marked(value)]
        if not functions:
            raise Misconfigured(
                f"module {module_name!r} has no tasks: mark functions with @task('name') "
                "from holdfast.handlers, or name the module that has them"
            )
        return [self.add(function) for function in functions]

    def load_builtin(self, settings: Settings) -> list[Handler]:
        """Register echo, sleep, http_request and send_email; ``close()`` frees what they hold.

        Raises:
            Misconfigured: a name is taken, or a setting of theirs cannot be understood.
        """
        self._builtins = Builtins(settings)
        return [self._register(handler) for handler in self._builtins.handlers()]

    def get(self, name: str) -> Handler | None:
        """The handler for tasks of that name, or None."""
        return self._handlers.get(name)

    def announcements(self) -> list[Announcement]:
        """Every name with the limits its handler asks for, in the order of the names."""
        return [self._handlers[name].announcement for name in sorted(self._handlers)]

    async def close(self) -> None:
        """Close the connections that built-in handlers kept open. May be called twice."""
        if self._builtins is not None:
            await self._builtins.close()

    def _register(self, handler: Handler) -> Handler:
        taken = self._handlers.get(handler.name)
        if taken is not None and taken.function != handler.function:
            raise Misconfigured(
                f"two handlers for task {handler.name!r}: {_source(taken)} and "
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
                "start where Python finds it, or set PYTHONPATH"
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
