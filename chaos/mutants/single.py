"""Guards of the statements of one task, which a lone finish and ``ctx.transaction()`` use."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

SINGLE = "system/holdfast/store/single.py"
FINISH_ONE_GUARDS = (
    "  WHERE locked.state = '{State.RUNNING}' AND locked.epoch = CAST(:epoch AS int)),"
)

MUTANTS = (
    Mutant(
        name="finish_one_without_epoch",
        guard="a finish of one task names the epoch of its attempt",
        what="it succeeds whenever the task is RUNNING, even for another owner",
        scenario="late_finish",
        killers=("S1", "S8", "S9"),
        edits=(
            Edit(
                SINGLE,
                FINISH_ONE_GUARDS,
                "  WHERE locked.state = '{State.RUNNING}' AND CAST(:epoch AS int) > 0),",
            ),
        ),
    ),
    Mutant(
        name="finish_one_without_state",
        guard="a finish of one task ends only a RUNNING one",
        what="it checks the epoch alone",
        scenario="late_finish",
        killers=("S1", "S8", "S9"),
        covered_by="the epoch, which is odd exactly while RUNNING (a CHECK of the table)",
        pair="finish_one_without_guards",
        edits=(Edit(SINGLE, FINISH_ONE_GUARDS, "  WHERE locked.epoch = CAST(:epoch AS int)),"),),
    ),
    Mutant(
        name="finish_one_without_guards",
        guard="a finish of one task names state and epoch",
        what="it succeeds in any state",
        scenario="late_finish",
        killers=("S1", "S8", "S9"),
        edits=(Edit(SINGLE, FINISH_ONE_GUARDS, "  WHERE CAST(:epoch AS int) > 0),"),),
    ),
)

UNPLANTED = (
    Unplanted(
        "BEGIN precedes the finish of a handler that sent no statement in its transaction",
        "system/holdfast/store/driver.py",
        "every handler of the workload sends one; covered by tests/handlers",
    ),
)
