"""Guards of the hint queue (``system/holdfast/queue/hints.py``)."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_FILE = "system/holdfast/queue/hints.py"

MUTANTS = (
    Mutant(
        name="group_made_only_once",
        guard="a missing consumer group is created again (NOGROUP)",
        what="only the first time",
        scenario="redis_amnesia",
        killers=("L1",),
        edits=(
            Edit(
                _FILE,
                "                if not _no_group(error):\n"
                "                    raise\n"
                "                await self._create_groups(queues)\n",
                '                if not _no_group(error) or getattr(self, "_made", False):\n'
                "                    raise\n"
                "                self._made = True\n"
                "                await self._create_groups(queues)\n",
            ),
        ),
    ),
    Mutant(
        name="group_from_now_on",
        guard="a new consumer group begins at the first hint of the stream",
        what='it begins with later hints ("$")',
        scenario="redis_wiped",
        killers=("L1",),
        covered_by="the hint's deadline: it is published again",
        pair="group_from_now_on_hints_once",
        edits=(Edit(_FILE, 'GROUP, "0", mkstream=True)', 'GROUP, "$", mkstream=True)'),),
    ),
)

UNPLANTED = (
    Unplanted(
        "maxlen: a stream without readers stays bounded",
        _FILE,
        "bounds Redis's memory; trimmed hints are republished",
    ),
    Unplanted(
        "socket timeouts: a half-open connection is given up",
        _FILE,
        "every fault of Toxiproxy ends in delivery or in a close, so that even one who waits for "
        "ever goes on after the heal; tests/scheduler/test_queue.py has a reply that never comes "
        "in time",
    ),
    Unplanted(
        "a wait in Redis is shorter than the socket timeout",
        _FILE,
        "equivalent here: READ_BLOCK_SECONDS is; else only slower",
    ),
    Unplanted(
        "nothing retries below the loops (NoBackoff)",
        _FILE,
        "only hints published twice, which claims refuse",
    ),
    Unplanted(
        "XACK and XDEL in one MULTI with what is appended again",
        _FILE,
        "half of it leaves a hint twice, or none: published again at its deadline",
    ),
    Unplanted(
        "entries that are not hints are dropped",
        _FILE,
        "nothing else writes to Redis here; tests/scheduler/test_queue.py",
    ),
    Unplanted(
        "the generation is set only where there is none (NX)",
        _FILE,
        "equivalent: any value shows that Redis kept its data",
    ),
    Unplanted(
        "hints are read per queue, the count shared out",
        _FILE,
        "the workload has one queue; tests/scheduler/test_queue.py",
    ),
)
