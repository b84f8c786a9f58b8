"""Guards against what servers and networks do in the field: only an environment tests them."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_STARTUP = "system/holdfast/runtime/startup.py"
_REDIS = "system/holdfast/queue/connection.py"
_DATABASE = "system/holdfast/store/database.py"

MUTANTS = (
    Mutant(
        name="kept_after_readonly",
        guard="a connection to Redis is dropped once its server refuses because it is a replica",
        what="it is kept",
        scenario="redis_demoted",
        killers=("L1", "S27"),
        edits=(
            Edit(
                _REDIS,
                "_OTHER_SERVER = (ReadOnlyError, MovedError, BusyLoadingError, MasterDownError)",
                "_OTHER_SERVER = (MovedError, BusyLoadingError, MasterDownError)",
            ),
        ),
    ),
    Mutant(
        name="exits_without_servers",
        guard="a role waits at its start for a server that is away",
        what="it exits with 1",
        scenario="late_servers",
        killers=("S27",),
        edits=(
            Edit(
                _STARTUP,
                "            self._reason = str(error)\n",
                "            raise SystemExit(1)\n",
            ),
        ),
        unlive="there a role that is not ready leaves the run undecided",
    ),
    Mutant(
        name="serialization_failures_reported",
        guard="a statement is resent after a serialization failure",
        what="only after a deadlock",
        scenario="strict_postgres",
        killers=("S24",),
        edits=(
            Edit(
                _DATABASE,
                '_CONFLICTS = frozenset({"40001", "40P01"})',
                '_CONFLICTS = frozenset({"40P01"})',
            ),
        ),
    ),
)

UNPLANTED: tuple[Unplanted, ...] = ()
