"""Declare an invariant: ``@invariant("S1", ...)`` on the function that checks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from chaos.checker.invariants.violation import Violation
from chaos.history.history import History
from chaos.scenario.vocabulary import LIVENESS, SAFETY

Check: TypeAlias = Callable[[History], list[Violation]]


@dataclass(frozen=True, slots=True)
class Invariant:
    """An invariant; ``sentence`` is the first line of its check's docstring.

    ``compares``: the records that it holds against each other.
    """

    name: str
    compares: str
    sentence: str
    check: Check

    def __call__(self, history: History) -> list[Violation]:
        return self.check(history)


def invariant(name: str, compares: str) -> Callable[[Check], Invariant]:
    """Declare the decorated function as the check of this invariant.

    Raises:
        ValueError: the name is not in ``chaos.scenario.vocabulary``, or the function has no
            docstring.
    """
    if name not in {*SAFETY, *LIVENESS}:
        raise ValueError(f"{name} is missing from the vocabulary of scenarios")

    def declare(check: Check) -> Invariant:
        sentence = (check.__doc__ or "").partition("\n")[0].removesuffix(".")
        if not sentence:
            raise ValueError(f"the check of {name} has no docstring")
        return Invariant(name, compares, sentence, check)

    return declare
