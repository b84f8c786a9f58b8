"""How many examples a property is tested with, under the profile that this run has chosen."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

_SMALLEST = 5


def examples(count: int, **more: Any) -> settings:
    """Settings for a property: ``count`` examples under profile ``nightly``, fewer under ``ci``.

    A profile's own ``max_examples`` is percent of ``count``.
    """
    share = settings.default.max_examples if settings.default else 100
    return settings(max_examples=max(_SMALLEST, count * share // 100), deadline=None, **more)
