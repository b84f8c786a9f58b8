"""Guards of the answer to an end of an attempt that was sent before."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_FILE = "system/holdfast/store/transitions.py"

MUTANTS = (
    Mutant(
        name="resent_end_refused",
        guard="a resent outcome of the same worker is accepted (released_by)",
        what="it is refused as a stale write",
        scenario="replies_lost",
        killers=("S8",),
        edits=(
            Edit(
                _FILE,
                "before IS NOT NULL\n    OR COALESCE(epoch = sent + 1 "
                "AND released_by = CAST(:worker AS uuid), false)",
                "false",
            ),
        ),
    ),
    Mutant(
        name="resent_end_answered_as_found",
        guard="a resent end is answered with the state it left, not with the state found now",
        what="the worker counts as its own what others did to the task since",
        scenario="replies_lost",
        killers=("S28",),
        edits=(Edit(_FILE, "COALESCE(before, state)", "state"),),
    ),
    Mutant(
        name="resent_end_refused_after_claim",
        guard="a resent outcome is accepted although the task runs again (its event)",
        what="it is refused as a stale write",
        scenario="replies_lost",
        killers=("S8",),
        edits=(Edit(_FILE, "before IS NOT NULL\n    OR ", ""),),
    ),
)

UNPLANTED: tuple[Unplanted, ...] = ()
