"""Bugs of the harness in what it injects, waits for and records (``harness_load``: what it asks).

A run with such a bug must not be true, because what it shows did not happen or was not looked at.
The scenario must be true on the correct harness under the same seed. These mutants are planted only
in simulation, whose worker process imports the harness from the planted tree.
"""

from __future__ import annotations

from chaos.mutants.mutant import Edit, of_harness

_RUNNER = "chaos/run/runner.py"
_WITNESS = "chaos/observers/database.py"
_SINK = "chaos/observers/sink.py"
_NEMESIS = "chaos/nemesis/nemesis.py"
_PROCESSES = "chaos/nemesis/process_faults.py"
_EDGES = "chaos/simulation/network/edges.py"
_NETWORK = "chaos/simulation/network/network.py"

_FAULTS = (
    of_harness(
        "edge_fault_not_injected",
        "a fault that is recorded as observed was injected",
        "it is only recorded",
        "redis_partition",
        (),
        Edit(
            _NEMESIS,
            "            return await target.inject_edge_fault(fault, fault_id, names, hold)\n",
            "            await hold()\n            return True, {name: {} for name in names}\n",
        ),
    ),
    of_harness(
        "fault_on_another_edge",
        "a fault is injected into the edges that it names",
        "it is injected into those of the API to Postgres",
        "redis_partition",
        ("S24",),
        Edit(
            _EDGES,
            "[network.edge(name) for name in names]",
            '[network.edge("api-1->postgres") for _ in names]',
        ),
    ),
    of_harness(
        "fault_five_seconds_late",
        "a fault begins at its second",
        "it begins 5 s later",
        "clock_skew",
        (),
        Edit(
            _NEMESIS,
            "self._sleep_until(fault.at or 0.0)",
            "self._sleep_until((fault.at or 0.0) + 5.0)",
        ),
    ),
    of_harness(
        "toxics_never_removed",
        "the fault of an edge ends when it is recorded as ended",
        "it lasts until the heal",
        "redis_partition",
        (),
        Edit(_EDGES, "            edge.remove(toxic)\n", "            pass\n"),
    ),
    of_harness(
        "fault_ends_at_once",
        "a fault lasts as long as its plan says",
        "it ends 50 ms after its start",
        "workers_killed",
        (),
        Edit(_NEMESIS, "asyncio.timeout(fault.for_seconds)", "asyncio.timeout(0.05)"),
    ),
    of_harness(
        "kill_only_pauses",
        "a kill ends the process",
        "it only pauses the process",
        "workers_killed",
        (),
        Edit(
            _PROCESSES,
            "        return await self._ended(self._actor.kill(), hold, code=-signal.SIGKILL)\n",
            "        return await self._pause(hold)\n",
        ),
    ),
    of_harness(
        "pause_does_nothing",
        "a pause stops the process",
        "the process runs on; the evidence says that it stopped",
        "zombie_returns",
        (),
        Edit(
            _PROCESSES,
            "        pid = self._actor.pause()\n",
            "        pid = self._actor.pause()\n        self._actor.resume()\n",
        ),
        Edit(
            _PROCESSES,
            "            stopped = self._actor.stopped\n",
            "            stopped = True\n",
        ),
        Edit(_PROCESSES, "            still = self._actor.stopped\n", "            still = True\n"),
    ),
)

_RUN = (
    of_harness(
        "heal_before_the_faults_end",
        "the heal begins after the last fault",
        "it begins with the end of the load",
        "hints_lost",
        (),
        Edit(
            _RUNNER,
            "            group.create_task(nemesis.run())\n",
            "            self._injecting = asyncio.create_task(nemesis.run())\n",
        ),
    ),
    of_harness(
        "drain_given_up",
        "the drain lasts until all tasks have ended or T is over",
        "it ends at once",
        "crowded",
        ("L1",),
        Edit(
            _RUNNER,
            "        limit = self._bound.seconds + 1.0\n",
            "        limit = 0.0\n",
        ),
    ),
    of_harness(
        "bound_doubled",
        "the bound of a run is computed from its settings",
        "it is doubled",
        "calm",
        (),
        Edit(
            _RUNNER,
            "            bound=self._bound,\n",
            "            bound=Bound(seconds=2 * self._bound.seconds, terms=self._bound.terms),\n",
        ),
    ),
    of_harness(
        "database_epoch_shifted",
        "second 0 is an instant of the database's clock",
        "it is recorded 5 s late",
        "calm",
        ("S13", "S22", "S23", "S24"),
        Edit(
            _RUNNER,
            "database_epoch=self._zero_instant,",
            "database_epoch=instant(zero.fromtimestamp(zero.timestamp() + 5, zero.tzinfo)),",
        ),
    ),
    of_harness(
        "exits_not_recorded",
        "every end of a process is recorded",
        "none is",
        "workers_killed",
        ("S13",),
        Edit(_RUNNER, "for end in environment.exits)", "for end in environment.exits[:0])"),
    ),
    of_harness(
        "metrics_not_read",
        "the metrics of every process that was healed are read",
        "those of the first are not",
        "calm",
        (),
        Edit(_RUNNER, "            for role in core:\n", "            for role in core[1:]:\n"),
    ),
    of_harness(
        "hints_not_read",
        "what Redis holds at rest is read",
        "it is not",
        "calm",
        (),
        Edit(_RUNNER, "            if quiet:\n", "            if not quiet:\n"),
    ),
    of_harness(
        "spans_dropped",
        "every export that the collector received is recorded",
        "every second one is",
        "calm",
        ("S13",),
        Edit(
            _RUNNER,
            "self.exports = self._environment.exports()",
            "self.exports = self._environment.exports()[::2]",
        ),
    ),
)

_OBSERVERS = (
    of_harness(
        "witness_with_limit",
        "the final read is complete",
        "it has at most 100 rows of each table but the tasks",
        "calm",
        ("S3", "S4", "S11", "S12", "S18"),
        Edit(_WITNESS, "ORDER BY {order}", "ORDER BY {order} LIMIT 100"),
    ),
    of_harness(
        "witness_skips_stale_writes",
        "the final read has every table",
        "it lacks the stale writes",
        "late_finish",
        (),
        Edit(_WITNESS, '            ("holdfast.stale_writes", StaleWrite, "id"),\n', ""),
        Edit(_WITNESS, "    StaleWrite,\n", ""),
    ),
    of_harness(
        "witness_through_the_fault",
        "the harness reads through no edge of an actor",
        "it reaches Postgres through the edge of worker-1",
        "late_finish",
        (),
        Edit(
            _NETWORK,
            '        edge = self.edge(f"{node.name}->{name}")\n',
            '        own = node.name == "harness" and name == "postgres"\n'
            "        edge = self.edge(f\"{'worker-1' if own else node.name}->{name}\")\n",
        ),
    ),
    of_harness(
        "events_reversed",
        "the events of a task are read in order",
        "they are read in reverse order",
        "calm",
        ("S3", "S4", "S12"),
        Edit(_WITNESS, '"task_id, seq"', '"task_id, seq DESC"'),
    ),
    of_harness(
        "events_deduplicated",
        "every event of a task is read",
        "only the first of each reason is",
        "workers_killed",
        ("S6", "S7", "S8", "S9", "S13", "S19", "S21", "S22"),
        Edit(
            _WITNESS,
            '("holdfast.task_events", Event, "task_id, seq")',
            '("(SELECT DISTINCT ON (task_id, reason) * FROM holdfast.task_events"\n'
            '             " ORDER BY task_id, reason, seq) e", Event, "task_id, seq")',
        ),
    ),
    of_harness(
        "ledger_rows_dropped",
        "every row of the ledger is read",
        "one of 16 is not",
        "calm",
        ("S4", "S11"),
        Edit(
            _WITNESS,
            '"holdfast.effects", Effect, "effect_key"',
            '"effects WHERE effect_key::text NOT LIKE \'%7\'", Effect, "effect_key"',
        ),
    ),
    of_harness(
        "sink_dedupes_by_task",
        "the sink knows repeats by their key, so that a wrong key is seen",
        "it knows them by their task; the key names the attempt",
        "workers_killed",
        ("S1",),
        Edit(
            _SINK,
            "        applied = not (self._dedupe and key in self._applied)\n"
            "        self._applied.add(key)\n",
            "        applied = not (self._dedupe and str(task_id) in self._applied)\n"
            "        self._applied.add(str(task_id))\n",
        ),
        Edit(
            "system/holdfast/handlers/context.py",
            "        return str(self._grant.task_id)\n",
            '        return f"{self._grant.task_id}:{self._grant.attempt}"\n',
        ),
    ),
    of_harness(
        "sink_forgets_repeats",
        "the sink records every call",
        "it records only those that it applies",
        "workers_killed",
        (),
        Edit(
            _SINK,
            '        self._file.write(json.dumps(asdict(call)) + "\\n")\n',
            '        if applied:\n            self._file.write(json.dumps(asdict(call)) + "\\n")\n',
        ),
    ),
    of_harness(
        "sink_applies_everything",
        "the sink applies a key once",
        "it applies every call",
        "workers_killed",
        ("S1",),
        Edit(_SINK, "applied = not (self._dedupe and key in self._applied)", "applied = True"),
    ),
)

MUTANTS = (*_FAULTS, *_RUN, *_OBSERVERS)
