"""Simulate handlers of users in addition to those of the workload.

``--app my.module`` adds every ``async def`` with ``@task`` in that module. Their payloads are in
the module's ``SIMULATED``, a mapping of task names to lists of payloads; the default is ``{}``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.errors import ChaosError
from chaos.scenario.scenario import Scenario
from holdfast.errors import Misconfigured
from holdfast.handlers.handler import Handler
from holdfast.handlers.registry import Registry
from holdfast.model.lifecycle import Backoff

_PAYLOADS = "SIMULATED"


class AppError(ChaosError):
    """A module cannot be simulated; the message names the cause and the fix."""


def handlers(modules: Sequence[str]) -> list[Handler]:
    """Return the handlers of these modules, loaded as ``holdfast worker --app`` loads them.

    Raises:
        AppError: a module cannot be imported, has no task, or has a task that runs in a thread.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    registry = Registry()
    try:
        found = [handler for module in modules for handler in registry.load(module)]
    except Misconfigured as error:
        raise AppError(f"--app: {error}") from error
    for handler in found:
        if not handler.is_async:
            raise AppError(
                f"--app: the task {handler.name!r} is a plain function: it runs in a thread, which "
                "cannot be simulated; make it `async def`, or run it in the live arena"
            )
    return found


def beside(scenario: Scenario, modules: Sequence[str]) -> Scenario:
    """Return the scenario with a share of tasks for the handlers of these modules.

    Raises:
        AppError: as ``handlers``, or ``SIMULATED`` does not map its tasks to payloads.
    """
    if not modules:
        return scenario
    names = [handler.name for handler in handlers(modules)]
    payloads: dict[str, Any] = {name: [{}] for name in names}
    for module in modules:
        given = getattr(sys.modules[module], _PAYLOADS, {})
        if not isinstance(given, Mapping) or (unknown := sorted(set(given) - set(names))):
            wrong = (
                f"names the unknown task {unknown[0]!r}"
                if isinstance(given, Mapping)
                else "is not a mapping"
            )
            raise AppError(f"--app: {module}.{_PAYLOADS} {wrong}; its tasks: {', '.join(names)}")
        payloads |= given
    document = scenario.document
    document["workload"]["handlers"] = payloads
    return Scenario.model_validate(document)


def longest_backoff(modules: Sequence[str], attempts: int) -> Backoff | None:
    """Return the backoff with the longest delay before the last of ``max_attempts`` attempts.

    None without a handler.
    """
    known = [handler.backoff for handler in handlers(modules)]
    failures = max(1, attempts - 1)
    return max(known, key=lambda each: each.delay_seconds(failures, 0.0), default=None)
