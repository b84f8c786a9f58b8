"""Library caches that would keep the objects of a finished run alive."""

from __future__ import annotations

import functools
import sys

# Their caches are keyed by functions, and an endpoint holds its whole application.
_LIBRARIES = ("fastapi.", "starlette.")


def forget() -> None:
    """Clear these caches between two runs; otherwise each run leaks at least 2 MB."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_LIBRARIES):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):  # noqa: SLF001 - its only name
                    value.cache_clear()
