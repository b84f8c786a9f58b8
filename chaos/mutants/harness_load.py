"""Bugs of the harness in what it asks for: its clients, its workload and its handlers."""

from __future__ import annotations

from chaos.mutants.mutant import Edit, of_harness

_RUNNER = "chaos/run/runner.py"
_CLIENT = "chaos/clients/client.py"
_ATTEMPT = "chaos/tasks/attempt.py"
_WORKLOAD = "chaos/scenario/workload.py"

_CLIENTS = (
    of_harness(
        "last_operations_dropped",
        "every operation of the clients is recorded",
        "the last 10 records are missing",
        "calm",
        ("S28",),
        Edit(
            _RUNNER,
            "self._write_all(environment.clients.operations())",
            "self._write_all(list(environment.clients.operations())[:-10])",
        ),
    ),
    of_harness(
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
    of_harness(
        "conflict_taken_as_fail",
        "a 409 of a cancel says that it was too late, which is an answer",
        "it is recorded as fail",
        "cancel_storm",
        ("S24",),
        Edit(_CLIENT, 'case "cancel" | "retry", 409:', 'case "retry", 409:'),
    ),
    of_harness(
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
    of_harness(
        "no_answer_taken_as_fail",
        "the outcome of a request without an answer is unknown",
        "it is recorded as fail: nothing was done",
        "commit_reply_lost",
        ("S2", "S10", "S24"),
        Edit(
            _CLIENT,
            'answer["status"] == 0 or answer["status"] >= 500',
            'answer["status"] >= 600',
        ),
    ),
    of_harness(
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
    of_harness(
        "idempotency_key_not_sent",
        "a submit carries its Idempotency-Key",
        "the header is missing",
        "used_keys",
        ("S10", "S18"),
        Edit(_CLIENT, '"/tasks/", body, planned.key)', '"/tasks/", body)'),
    ),
)

_LOAD = (
    of_harness(
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
    of_harness(
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
    of_harness(
        "poison_does_not_kill",
        "a poison task kills its process",
        "it succeeds",
        "poison_task",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, "            os.kill(os.getpid(), signal.SIGKILL)\n", "            pass\n"),
    ),
    of_harness(
        "seen_digest_constant",
        "a handler testifies which payload it saw",
        "it testifies the digest of an empty text",
        "calm",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, "hashlib.sha256(text.encode())", 'hashlib.sha256(b"")'),
    ),
    of_harness(
        "seen_attempt_constant",
        "a handler testifies which attempt it is",
        "it testifies the first",
        "workers_killed",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, '"attempt": ctx.attempt,', '"attempt": 1,'),
    ),
    of_harness(
        "result_constant",
        "the result of an attempt is that of its task",
        "it has the number 0",
        "calm",
        ("S18", "S19", "S20", "S21"),
        Edit(_ATTEMPT, '{"number": payload["number"], "seen"', '{"number": 0, "seen"'),
    ),
)

MUTANTS = (*_CLIENTS, *_LOAD)
