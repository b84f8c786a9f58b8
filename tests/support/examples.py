"""The number of examples of a property, under the hypothesis profile of this run."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

_SMALLEST = 5


def examples(count: int, **more: Any) -> settings:
    """Return settings with ``count`` examples under profile ``nightly``, fewer under ``ci``.

    A profile's ``max_examples`` is a percentage of ``count``.
    """
    share = settings.default.max_examples if settings.default else 100
    return settings(max_examples=max(_SMALLEST, count * share // 100), deadline=None, **more)
