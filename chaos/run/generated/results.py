"""The results file: one line of JSON per mutant and tier, written as each trial ends."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from chaos.run.generated.trial import MutantTrial, Tier

_ADAPTER: TypeAdapter[MutantTrial] = TypeAdapter(MutantTrial)


class Results:
    """All trials in ``path``; a later one of the same mutant and tier replaces the earlier."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trials: dict[tuple[str, Tier], MutantTrial] = {}
        text = path.read_bytes() if path.exists() else b""
        for line in text.splitlines():
            try:
                trial = _ADAPTER.validate_json(line)
            except ValidationError:
                continue  # a process was killed while it wrote this line: the trial is repeated
            self._trials[trial.mutant, trial.tier] = trial
        if text and not text.endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")

    def get(self, mutant: str, tier: Tier) -> MutantTrial | None:
        """Return the trial of a mutant in a tier, or None if it was not tried yet."""
        return self._trials.get((mutant, tier))

    def add(self, trial: MutantTrial) -> None:
        """Record a trial, in memory and in the file."""
        self._trials[trial.mutant, trial.tier] = trial
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            file.write(_ADAPTER.dump_json(trial) + b"\n")
