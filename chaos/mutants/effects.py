"""Guards of effects: the fence before them, ``ctx.transaction()``, connections, the effect key."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted, both
from chaos.mutants.single import FINISH_ONE_GUARDS, SINGLE
from chaos.mutants.transitions import FINISH, FINISH_GUARDS

_STORE = "system/holdfast/store/store.py"
_TRANSACTION = "system/holdfast/handlers/transactions.py"

_POOLED = Mutant(
    name="cancelled_connection_pooled",
    guard="a connection whose call was cancelled is broken, not pooled",
    what="it is returned to the pool unchanged",
    scenario="zombie_returns",
    killers=("S1", "S4", "S11"),
    covered_by="SQLAlchemy, which invalidates it and rolls back its open transaction",
    pair="cancelled_connection_pooled_not_reset",
    edits=(
        Edit(
            "system/holdfast/store/connections.py",
            "    if not connection.closed and not connection.invalidated:\n"
            "        raw = await connection.get_raw_connection()\n",
            "    if False:\n        raw = await connection.get_raw_connection()\n",
        ),
    ),
)
_NOT_RESET = Mutant(
    name="connections_not_reset",
    guard="a connection's open transaction is rolled back on return to the pool",
    what="the next user finds the transaction of the previous one",
    scenario="zombie_returns",
    killers=("S20",),
    edits=(
        Edit(
            "system/holdfast/store/connections.py",
            "        pool_timeout=settings.connect_timeout_seconds,\n",
            "        pool_timeout=settings.connect_timeout_seconds,\n"
            "        pool_reset_on_return=None,\n",
        ),
        Edit(
            _TRANSACTION,
            "                await self._connections.discard(begun.connection)\n",
            "                if begun.connection.sync_connection is not None:\n"
            "                    begun.connection.sync_connection._transaction = None\n"
            "                await self._connections.discard(begun.connection)\n",
        ),
    ),
)

MUTANTS = (
    Mutant(
        name="fence_checked_before",
        guard="the fence is checked in the statement that it guards",
        what="it is checked in a separate statement before the effect",
        scenario="late_answer",
        killers=("S1", "S8", "S9"),
        edits=(
            Edit(
                "system/holdfast/store/transitions.py",
                FINISH_GUARDS,
                f"{FINISH}\n  WHERE locked.state = '{{State.RUNNING}}' "
                "AND locked.id = ANY(CAST(:fit AS uuid[]))),",
            ),
            Edit(
                SINGLE,
                FINISH_ONE_GUARDS,
                "  WHERE locked.state = '{State.RUNNING}' AND CAST(:epoch AS int) > 0),",
            ),
            Edit(_STORE, "        if len(successes) == 1:\n", "        if not successes:\n"),
            Edit(
                _STORE,
                "        parameters = _finish_parameters(successes, worker_id)\n",
                "        parameters = _finish_parameters(successes, worker_id)\n"
                '        rows = await self._database.rows(_FENCE, {"ids": parameters["ids"]})\n'
                '        parameters["fit"] = _fitting(successes, rows)\n',
            ),
            Edit(
                _STORE,
                "        rows = await transaction.rows(statement, parameters)\n"
                "        if not rows:\n"
                "            parameters = _finish_parameters([success], worker_id)\n",
                '        seen = await transaction.rows(_FENCE, {"ids": [success.task_id]})\n'
                "        fit = _fitting([success], seen)\n"
                "        rows = await transaction.rows(statement, parameters) if fit else []\n"
                "        if not rows:\n"
                "            parameters = _finish_parameters([success], worker_id)\n"
                '            parameters["fit"] = fit\n',
            ),
            Edit(
                _STORE,
                "def _distinct(ids",
                """\
from sqlalchemy import text  # noqa: E402

_FENCE = text("SELECT id, epoch FROM holdfast.tasks WHERE id = ANY(CAST(:ids AS uuid[]))")


def _fitting(successes, rows):
    epochs = {row["id"]: row["epoch"] for row in rows}
    return [each.task_id for each in successes if epochs.get(each.task_id) == each.epoch]


def _distinct(ids""",
            ),
        ),
    ),
    _POOLED,
    both(
        "cancelled_connection_pooled_not_reset",
        _POOLED,
        _NOT_RESET,
        killers=("S20",),
    ),
    Mutant(
        name="cancel_in_transaction",
        guard="ctx.transaction() never writes CANCELLED: its success overtakes a cancel request",
        what="a task that was asked to stop is CANCELLED by the same COMMIT as its effect",
        scenario="cancel_storm",
        killers=("S4", "S11"),
        edits=(
            Edit(
                _STORE,
                "        statement = in_schema(single.FINISH_ONE, self._schema)\n",
                """\
        from sqlalchemy import text

        from holdfast.model.lifecycle import Reason

        asked = text("SELECT cancel_requested FROM holdfast.tasks WHERE id = :id")
        statement = single.FINISH_ONE
        (found,) = await transaction.rows(asked, {"id": success.task_id}) or [{}]
        if found.get("cancel_requested"):
            parameters |= _finish_parameters([success], worker_id)
            parameters |= {"reasons": [str(Reason.CANCELLED)], "delays": [0.0], "details": [None]}
            parameters |= {"unhandled": [False]}
            statement = transitions.RELEASE
""",
            ),
        ),
    ),
    Mutant(
        name="commit_though_refused",
        guard="ctx.transaction() is rolled back when its finish is refused",
        what="it is committed anyway",
        scenario="zombie_returns",
        killers=("S1", "S8", "S11"),
        edits=(
            Edit(_TRANSACTION, "        if not answer.made:\n", "        if answer is None:\n"),
        ),
    ),
    Mutant(
        name="effect_before_finish",
        guard="the handler's SQL and its success are one COMMIT",
        what="the SQL is committed first, the success is written afterwards",
        scenario="zombie_returns",
        killers=("S1", "S8", "S11"),
        edits=(
            Edit(
                _TRANSACTION,
                "                await self._finish(commit, begun, transaction.result)\n",
                "",
            ),
            Edit(
                _TRANSACTION,
                "        commit.applied()\n\n\nasync def",
                "        commit.refused()\n\n\nasync def",
            ),
        ),
    ),
    Mutant(
        name="effect_key_per_attempt",
        guard="the effect key is the same in every attempt",
        what="it names the attempt",
        scenario="workers_killed",
        killers=("S1",),
        edits=(
            Edit(
                "system/holdfast/handlers/context.py",
                "        return str(self._grant.task_id)\n",
                '        return f"{self._grant.task_id}:{self._grant.attempt}"\n',
            ),
        ),
    ),
)

UNPLANTED = (
    Unplanted(
        "a COMMIT of unknown outcome is settled by a release under the same epoch",
        _TRANSACTION,
        "covered by the heartbeat, which releases unknown attempts, and by the reclaim",
    ),
    Unplanted(
        "one transaction per attempt; COMMIT is awaited to its end",
        _TRANSACTION,
        "handlers of the workload open only one; a COMMIT that is not awaited counts as unknown, "
        "and the fence settles it",
    ),
)
