"""How many examples of a property, and which enumerated cases, the hypothesis profile runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import settings

_T = TypeVar("_T")
_SMALLEST = 5


def examples(count: int, **more: Any) -> settings:
    """Return settings with ``count`` examples under profile ``nightly``, fewer under ``ci``.

    A profile's ``max_examples`` is a percentage of ``count``.
    """
    return settings(max_examples=max(_SMALLEST, count * _share() // 100), deadline=None, **more)


def share_of(cases: Sequence[_T], offset: int) -> Sequence[_T]:
    """Return all cases under profile ``nightly``, and under ``ci`` every nth beginning at one.

    Tests that call it with each ``offset`` cover all cases between them.
    """
    every = 100 // _share()
    return cases[offset % every :: every]


def _share() -> int:
    return settings.default.max_examples if settings.default else 100
