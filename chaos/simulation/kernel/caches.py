"""What libraries remember about the objects of a run, so that these could never be freed."""

from __future__ import annotations

import functools
import sys

# Their caches are keyed by functions, and an endpoint holds its whole application.
_LIBRARIES = ("fastapi.", "starlette.")


def forget() -> None:
    """Empties these caches; between two runs. Without it a run leaves 2 MB behind and more."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_LIBRARIES):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):  # noqa: SLF001 - its only name
                    value.cache_clear()
