"""Bugs of the harness itself: what it asks, injects, waits for and records.

A run with such a bug must not be true, because what it shows did not happen or was not looked at.
The scenario must be true on the correct harness under the same seed. These mutants are planted only
in simulation, whose worker process imports the harness from the planted tree.
"""

from __future__ import annotations

from chaos.mutants.mutant import UNKNOWN, Edit, Mutant

_RUNNER = "chaos/run/runner.py"
_CLIENT = "chaos/clients/client.py"
_WITNESS = "chaos/observers/database.py"
_SINK = "chaos/observers/sink.py"
_NEMESIS = "chaos/nemesis/nemesis.py"
_PROCESSES = "chaos/nemesis/process_faults.py"
_EDGES = "chaos/simulation/network/edges.py"
_NETWORK = "chaos/simulation/network/network.py"
_ATTEMPT = "chaos/tasks/attempt.py"
_WORKLOAD = "chaos/scenario/workload.py"
_LIVE = "there the harness runs from the real sources"


def _mutant(
    name: str, guard: str, what: str, scenario: str, killers: tuple[str, ...], *edits: Edit
) -> Mutant:
    return Mutant(
        name=name,
        guard=guard,
        what=what,
        scenario=scenario,
        killers=(*killers, UNKNOWN),
        edits=edits,
        unlive=_LIVE,
    )


_CLIENTS = (
    _mutant(
        "last_operations_dropped",
        "every operation of the clients is recorded",
        "the last 10 records are missing",
        "calm",
        (),
        Edit(
            _RUNNER,
            "self._write_all(environment.clients.operations())",
            "self._write_all(list(environment.clients.operations())[:-10])",
        ),
    ),
    _mutant(
        "unavailable_taken_as_ok",
        "a 503 is no success",
        "it is recorded as ok",
        "database_restart",
        ("S4", "S5", "S10", "S12"),
        Edit(
            _CLIENT,
            "    if not 200 <= status < 300:\n",
            "    if status != 503 and not 200 <= status < 300:\n",
        ),
    ),
    _mutant(
        "conflict_taken_as_fail",
        "a 409 of a cancel says that it was too late, which is an answer",
        "it is recorded as fail",
        "crowded",
        (),
        Edit(_CLIENT, 'case "cancel" | "retry", 409:', 'case "retry", 409:'),
    ),
    _mutant(
        "used_key_taken_as_ok",
        "a 422 is no success",
        "it is recorded as ok",
        "used_keys",
        ("S10",),
        Edit(
            _CLIENT,
            "    if not 200 <= status < 300:\n",
            "    if status != 422 and not 200 <= status < 300:\n",
        ),
    ),
    _mutant(
        "no_answer_taken_as_fail",
        "the outcome of a request without an answer is unknown",
        "it is recorded as fail: nothing was done",
        "commit_reply_lost",
        ("S10",),
        Edit(
            _CLIENT,
            'answer["status"] == 0 or answer["status"] >= 500',
            'answer["status"] >= 600',
        ),
    ),
    _mutant(
        "repeats_never_sent",
        "every planned repeat is sent",
        "none is",
        "used_keys",
        (),
        Edit(
            _CLIENT,
            '        if planned.kind in {"submit", "repeat"}:\n',
            '        if planned.kind == "repeat":\n            return None\n'
            '        if planned.kind == "submit":\n',
        ),
    ),
    _mutant(
        "idempotency_key_not_sent",
        "a submit carries its Idempotency-Key",
        "the header is missing",
        "used_keys",
        ("S10", "S18"),
        Edit(_CLIENT, '"/tasks/", body, planned.key)', '"/tasks/", body)'),
    ),
)

_LOAD = (
    _mutant(
        "payloads_equal",
        "the payloads of a run differ",
        "all have the number 0 and the same duration",
        "calm",
        (),
        Edit(_WORKLOAD, '        "number": number,\n', '        "number": 0,\n'),
        Edit(
            _WORKLOAD,
            '"seconds": round(draw.uniform(*workload.handler_seconds), 4),',
            '"seconds": workload.handler_seconds[0],',
        ),
    ),
    _mutant(
        "one_key_per_client",
        "every task has a key of its own",
        "all tasks of eight share one key",
        "calm",
        ("S10",),
        Edit(
            _WORKLOAD,
            '    return f"s{seed}-{number:05d}"',
            '    return f"s{seed}-{number % CLIENTS:05d}"',
        ),
    ),
    _mutant(
        "poison_does_not_kill",
        "a poison task kills its process",
        "it succeeds",
        "poison_task",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, "            os.kill(os.getpid(), signal.SIGKILL)\n", "            pass\n"),
    ),
    _mutant(
        "seen_digest_constant",
        "a handler testifies which payload it saw",
        "it testifies the digest of an empty text",
        "calm",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, "hashlib.sha256(text.encode())", 'hashlib.sha256(b"")'),
    ),
    _mutant(
        "seen_attempt_constant",
        "a handler testifies which attempt it is",
        "it testifies the first",
        "workers_killed",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, '"attempt": ctx.attempt,', '"attempt": 1,'),
    ),
    _mutant(
        "result_constant",
        "the result of an attempt is that of its task",
        "it has the number 0",
        "calm",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, '{"number": payload["number"], "seen"', '{"number": 0, "seen"'),
    ),
)

_FAULTS = (
    _mutant(
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
    _mutant(
        "fault_on_another_edge",
        "a fault is injected into the edges that it names",
        "it is injected into those of the API to Postgres",
        "redis_partition",
        (),
        Edit(
            _EDGES,
            "[network.edge(name) for name in names]",
            '[network.edge("api-1->postgres") for _ in names]',
        ),
    ),
    _mutant(
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
    _mutant(
        "toxics_never_removed",
        "the fault of an edge ends when it is recorded as ended",
        "it lasts until the heal",
        "redis_partition",
        (),
        Edit(_EDGES, "            edge.remove(toxic)\n", "            pass\n"),
    ),
    _mutant(
        "fault_ends_at_once",
        "a fault lasts as long as its plan says",
        "it ends 50 ms after its start",
        "workers_killed",
        (),
        Edit(_NEMESIS, "asyncio.timeout(fault.for_seconds)", "asyncio.timeout(0.05)"),
    ),
    _mutant(
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
    _mutant(
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
    _mutant(
        "heal_before_the_faults_end",
        "the heal begins after the last fault",
        "it begins with the end of the load",
        "database_latency",
        (),
        Edit(
            _RUNNER,
            "            group.create_task(nemesis.run())\n",
            "            self._injecting = asyncio.create_task(nemesis.run())\n",
        ),
    ),
    _mutant(
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
    _mutant(
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
    _mutant(
        "database_epoch_shifted",
        "second 0 is an instant of the database's clock",
        "it is recorded 5 s late",
        "calm",
        ("S3", "S18", "S19", "S20", "S21"),
        Edit(
            _RUNNER,
            "database_epoch=self._zero_instant,",
            "database_epoch=instant(zero.fromtimestamp(zero.timestamp() + 5, zero.tzinfo)),",
        ),
    ),
    _mutant(
        "exits_not_recorded",
        "every end of a process is recorded",
        "none is",
        "workers_killed",
        (),
        Edit(_RUNNER, "for end in environment.exits)", "for end in environment.exits[:0])"),
    ),
    _mutant(
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
    _mutant(
        "witness_with_limit",
        "the final read is complete",
        "it has at most 100 rows of each table but the tasks",
        "calm",
        ("S3", "S4", "S11", "S12", "S18"),
        Edit(_WITNESS, "ORDER BY {order}", "ORDER BY {order} LIMIT 100"),
    ),
    _mutant(
        "witness_skips_stale_writes",
        "the final read has every table",
        "it lacks the stale writes",
        "late_finish",
        (),
        Edit(_WITNESS, '            ("stale_writes", StaleWrite, "id"),\n', ""),
        Edit(_WITNESS, "    StaleWrite,\n", ""),
    ),
    _mutant(
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
    _mutant(
        "events_reversed",
        "the events of a task are read in order",
        "they are read in reverse order",
        "calm",
        ("S3", "S4", "S12"),
        Edit(_WITNESS, '"task_id, seq"', '"task_id, seq DESC"'),
    ),
    _mutant(
        "events_deduplicated",
        "every event of a task is read",
        "only the first of each reason is",
        "workers_killed",
        ("S3", "S4", "S12"),
        Edit(
            _WITNESS,
            '("task_events", Event, "task_id, seq")',
            '("(SELECT DISTINCT ON (task_id, reason) * FROM task_events"\n'
            '             " ORDER BY task_id, reason, seq) e", Event, "task_id, seq")',
        ),
    ),
    _mutant(
        "ledger_rows_dropped",
        "every row of the ledger is read",
        "one of 16 is not",
        "calm",
        ("S4", "S11"),
        Edit(
            _WITNESS,
            '"effects", Effect, "effect_key"',
            '"effects WHERE effect_key::text NOT LIKE \'%7\'", Effect, "effect_key"',
        ),
    ),
    _mutant(
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
    _mutant(
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
    _mutant(
        "sink_applies_everything",
        "the sink applies a key once",
        "it applies every call",
        "workers_killed",
        ("S1",),
        Edit(_SINK, "applied = not (self._dedupe and key in self._applied)", "applied = True"),
    ),
)

MUTANTS = (*_CLIENTS, *_LOAD, *_FAULTS, *_RUN, *_OBSERVERS)
