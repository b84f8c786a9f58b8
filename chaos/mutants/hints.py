"""Guards of the hint queue (``system/holdfast/queue/hints.py``)."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, Mutant, Unplanted

_FILE = "system/holdfast/queue/hints.py"

ASKED_BY_A_READ = Mutant(
    name="asked_by_a_read",
    guard="the scheduler asks by a write whether Redis takes hints (renew_generation)",
    what="it asks whether the generation exists",
    scenario="redis_full",
    killers=("L1",),
    covered_by="a refused hint starts its deadline anew",
    pair="asked_by_a_read_refused_hints_double",
    edits=(
        Edit(
            _FILE,
            "return bool(await self._redis.set(self._generation, _PRESENT, xx=True))",
            "return bool(await self._redis.exists(self._generation))",
        ),
    ),
)

MUTANTS = (
    ASKED_BY_A_READ,
    Mutant(
        name="group_created_once",
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
        guard="a new consumer group starts at the first hint of the stream",
        what='it starts at the end of the stream ("$")',
        scenario="redis_wiped",
        killers=("S29",),
        edits=(Edit(_FILE, 'GROUP, "0", mkstream=True)', 'GROUP, "$", mkstream=True)'),),
    ),
    Mutant(
        name="acked_hints_kept",
        guard="a hint that is acked is removed from its stream",
        what="it stays in the stream until that is trimmed",
        scenario="calm",
        killers=("S29",),
        edits=(Edit(_FILE, "            pipeline.xdel(self._stream(queue), *ids)\n", ""),),
    ),
)

UNPLANTED = (
    Unplanted(
        "maxlen: a stream without readers stays bounded",
        _FILE,
        "bounds the memory of Redis; trimmed hints are republished",
    ),
    Unplanted(
        "socket timeouts: a half-open connection is closed",
        _FILE,
        "every fault of Toxiproxy ends in delivery or a close, so even a reader without a timeout "
        "continues after the heal; tests/scheduler/test_queue.py has a reply that never arrives "
        "in time",
    ),
    Unplanted(
        "a blocking read is shorter than the socket timeout",
        _FILE,
        "equivalent here: READ_BLOCK_SECONDS is shorter; otherwise only slower",
    ),
    Unplanted(
        "only the loops retry, no layer below them (NoBackoff)",
        _FILE,
        "without it hints are published twice, which claims refuse",
    ),
    Unplanted(
        "XACK, XDEL and the XADD of a returned hint are one MULTI",
        _FILE,
        "half of it leaves the hint twice or not at all: republished at its deadline",
    ),
    Unplanted(
        "entries that are not hints are dropped",
        _FILE,
        "no other program writes to Redis here; tests/scheduler/test_queue.py",
    ),
)
