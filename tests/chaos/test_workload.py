"""Generated operations: determined only by workload and seed, in every process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.checker.model.request import invalid_fields
from chaos.scenario.operations import Differences, Workload
from chaos.scenario.workload import (
    CLIENTS,
    POISON_STEPS,
    PlannedOperation,
    from_json,
    generate,
    share,
    to_json,
)
from chaos.tasks.steps import does
from examples import examples

BUSY = Workload.model_validate(
    {
        "tasks": 400,
        "seconds": 10,
        "effects": {"ledger": 2, "sql": 1, "external": 1},
        "later": {"share": 0.3, "seconds": [0.5, 3]},
        "flaky": {"share": 0.2, "failures": [1, 2]},
        "repeats": 0.2,
        "mismatches": 0.1,
        "cancels": 0.15,
        "reads": 0.4,
    }
)
ROOT = Path(__file__).parents[2]


def of(operations: list[PlannedOperation], kind: str) -> list[PlannedOperation]:
    return [operation for operation in operations if operation.kind == kind]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_same_seed_gives_the_same_list_in_any_process(hash_seed: str) -> None:
    code = (
        "import json; from chaos.scenario.operations import Workload;"
        "from chaos.scenario.workload import *;"
        f"w = Workload.model_validate_json({BUSY.model_dump_json()!r});"
        "print(json.dumps(to_json(generate(w, 7))))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert from_json(json.loads(there.stdout)) == generate(BUSY, 7)


def test_another_seed_gives_another_list() -> None:
    assert to_json(generate(BUSY, 7)) != to_json(generate(BUSY, 8))


def test_every_task_is_submitted_once_under_its_own_key_in_time() -> None:
    submits = of(generate(BUSY, 1), "submit")
    assert len(submits) == BUSY.tasks
    assert len({submit.key for submit in submits}) == BUSY.tasks
    assert all(0 <= submit.at <= BUSY.seconds for submit in submits)
    assert {submit.effect for submit in submits} == {"ledger", "sql", "external"}


def test_shares_are_roughly_met() -> None:
    operations = generate(BUSY, 3)
    count: Counter[str] = Counter(operation.kind for operation in operations)
    wanted = {"repeat": BUSY.repeats, "cancel": BUSY.cancels, "get": 1.5 * BUSY.reads}
    wanted |= {"events": 0.5 * BUSY.reads, "list": 0.2 * BUSY.reads}
    for kind, part in (wanted | {"mismatch": BUSY.mismatches}).items():
        assert count[kind] == pytest.approx(BUSY.tasks * part, rel=0.35), kind
    later = [submit for submit in of(operations, "submit") if submit.run_after is not None]
    assert len(later) == pytest.approx(BUSY.tasks * 0.3, rel=0.35)
    assert count["retry"] > 0


ALIKE = BUSY.model_copy(
    update={"differences": Differences(requests=False, queues=("default",), ends=0, hangs=0)}
)


def test_alike_repeats_are_the_same_request_and_mismatches_another() -> None:
    operations = generate(ALIKE, 5)
    first = {submit.key: submit for submit in of(operations, "submit")}
    for repeat in of(operations, "repeat"):
        original = first[repeat.key]
        assert (repeat.request, repeat.run_after) == (original.request, original.run_after)
        assert repeat.at >= original.at
    for mismatch in of(operations, "mismatch"):
        assert mismatch.request["payload"] != first[mismatch.key].request["payload"]
        assert mismatch.client == first[mismatch.key].client
    assert any(repeat.at == first[repeat.key].at for repeat in of(operations, "repeat"))


def test_task_is_cancelled_and_read_by_its_submitting_client() -> None:
    operations = generate(BUSY, 5)
    owner = {submit.key: submit.client for submit in of(operations, "submit")}
    followers = of(operations, "cancel") + of(operations, "get")
    assert followers
    assert all(owner[operation.key] == operation.client for operation in followers)


def test_client_shares_cover_the_whole_list_in_order() -> None:
    operations = generate(BUSY, 2)
    shares = [share(operations, client) for client in range(CLIENTS)]
    assert all(shares)
    shared = [operation for each in shares for operation in each]
    assert sorted(map(repr, shared)) == sorted(map(repr, operations))


def test_dead_letters_are_retried_and_cancelled_late_but_within_the_load() -> None:
    operations = generate(BUSY, 6)
    dead = {s.key: s for s in of(operations, "submit") if len(s.request["payload"]["steps"]) > 3}
    late: Counter[str] = Counter()
    for operation in operations:
        submit = dead.get(operation.key)
        if submit is None or operation.kind not in {"cancel", "retry"}:
            continue
        after = operation.at - (submit.run_after or submit.at)
        if after > 3.5:  # later than any other retry or cancel
            assert operation.at <= BUSY.seconds
            late[operation.kind] += 1
    assert late["cancel"] > 0
    assert late["retry"] > 0
    uncancelled = generate(BUSY.model_copy(update={"cancels": 0.0}), 6)
    assert of(uncancelled, "cancel") == []


def test_recorded_seed_still_generates_the_same_operations() -> None:
    """A failed run is reported by scenario and seed, which must reproduce it later."""
    rows = to_json(generate(BUSY, 1))
    for row in rows:
        assert row.pop("items") == row.pop("secrets") == ()
        assert row.pop("api_key") is None
    text = json.dumps(rows, sort_keys=True)
    assert len(rows) == 959
    assert hashlib.sha256(text.encode()).hexdigest().startswith("63a99ca7ea410a05")


BATCHED = BUSY.model_copy(update={"batch": 7})


def test_batches_with_an_invalid_item_have_the_same_others() -> None:
    def requests(workload: Workload) -> list[PlannedOperation]:
        return [item for item in items(generate(workload, 1)) if item.kind == "submit"]

    spoiled = BATCHED.model_copy(update={"invalid": 0.5})
    assert requests(spoiled) == requests(BATCHED)
    batches = of(generate(spoiled, 1), "batch")
    found = [item for batch in batches for item in batch.items if item.kind == "invalid"]
    assert 0.3 * len(batches) < len(found) < 0.7 * len(batches)
    assert all(len(invalid_fields(item.request)) == 1 for item in found)
    assert len({next(iter(invalid_fields(item.request))) for item in found}) >= 5
    assert not any(invalid_fields(item.request) for item in requests(spoiled))
    places = {
        [each.kind for each in batch.items].index("invalid")
        for batch in batches
        if "invalid" in {each.kind for each in batch.items}
    }
    assert {0, 3} <= places
    assert from_json(to_json(batches)) == batches


def items(operations: list[PlannedOperation]) -> list[PlannedOperation]:
    return [item for batch in of(operations, "batch") for item in batch.items]


@given(seed=st.integers(0, 2**32), size=st.integers(2, 60))
@examples(25)
def test_batches_carry_every_submit_exactly_once(seed: int, size: int) -> None:
    operations = generate(BUSY.model_copy(update={"batch": size}), seed)
    singly = generate(BUSY, seed)
    assert of(operations, "submit") == []
    # The same submits, and everything else as without batches.
    assert sorted(items(operations), key=repr) == sorted(of(singly, "submit"), key=repr)
    rest = [operation for operation in singly if operation.kind != "submit"]
    assert [operation for operation in operations if operation.kind != "batch"] == rest
    for batch in of(operations, "batch"):
        assert 1 <= len(batch.items) <= size
        assert {item.client for item in batch.items} == {batch.client}
        assert (batch.at, batch.key) == (batch.items[0].at, batch.items[0].key)
        assert [item.at for item in batch.items] == sorted(item.at for item in batch.items)
    # All but the last batch of a client are full.
    for client in range(CLIENTS):
        sizes = [len(b.items) for b in of(operations, "batch") if b.client == client]
        assert set(sizes[:-1]) <= {size}


def test_batch_precedes_operations_on_its_tasks() -> None:
    operations = generate(BATCHED, 5)
    sent = {item.key: batch.at for batch in of(operations, "batch") for item in batch.items}
    followers = [operation for operation in operations if operation.key and not operation.items]
    assert followers
    assert all(sent[operation.key] <= operation.at for operation in followers)
    assert [operation.at for operation in operations] == sorted(op.at for op in operations)


@pytest.mark.parametrize("workload", [BUSY, BATCHED], ids=["singly", "batched"])
def test_operations_survive_json(workload: Workload) -> None:
    operations = generate(workload, 3)
    assert from_json(json.loads(json.dumps(to_json(operations)))) == operations
    assert from_json(to_json(operations)) == operations


def test_each_name_of_an_api_key_has_clients_that_send_all_operations() -> None:
    keys = {"shop": ["old", "next"], "desk": ["only"]}
    named = BUSY.model_copy(update={"batch": 3, "api_keys": keys})
    operations = generate(named, 7)
    assert from_json(json.loads(json.dumps(to_json(operations)))) == operations
    by_name = {name: [op for op in operations if op.api_key == name] for name in keys}
    plain = generate(BUSY.model_copy(update={"batch": 3}), 7)
    for mine in by_name.values():
        assert Counter((op.at, op.kind, op.key) for op in mine) == Counter(
            (op.at, op.kind, op.key) for op in plain
        )
    clients = [{op.client for op in mine} for mine in by_name.values()]
    assert set.union(*clients) == {*range(CLIENTS)}
    assert not set.intersection(*clients)
    assert all(item.client == op.client for op in operations for item in op.items)
    shop, desk = (mine[0] for mine in by_name.values())
    assert [shop.secret(at) for at in (-0.1, 4.9, 5, 60)] == [(1, "old")] * 2 + [(2, "next")] * 2
    assert desk.secret(60) == (1, "only")
    assert named.tasks_submitted == 2 * BUSY.tasks


def test_due_between_bounds_the_due_times() -> None:
    herd = Workload.model_validate({"tasks": 300, "seconds": 2, "due_between": [5, 6.5]})
    dues = [submit.run_after for submit in of(generate(herd, 1), "submit")]
    assert all(due is not None and 5 <= due <= 6.5 for due in dues)
    assert len({*dues}) > 200
    cancelled = herd.model_copy(update={"cancels": 1.0})
    cancels = of(generate(cancelled, 1), "cancel")
    # Around its due time, which is long after its submit.
    assert sum(5 <= cancel.at <= 7 for cancel in cancels) > len(cancels) / 2


@given(seed=st.integers(0, 2**32), count=st.integers(0, 30))
@examples(25)
def test_poison_tasks_have_no_companions(seed: int, count: int) -> None:
    workload = BUSY.model_copy(update={"tasks": 30, "seconds": 1, "poison": count, "cancels": 0.9})
    operations = generate(workload, seed)
    poison = {s.key for s in of(operations, "submit") if does(s.request["payload"], 1) == "kill"}
    assert len(poison) == count
    for submit in of(operations, "submit"):
        if submit.key in poison:
            # It fails only by killing its worker.
            assert submit.request["payload"]["steps"] == [{"do": "kill"}] * POISON_STEPS
        else:
            assert {"do": "kill"} not in submit.request["payload"]["steps"]
    assert not poison & {op.key for op in operations if op.kind != "submit"}
    # A batch treats it like any other submit.
    batched = items(generate(workload.model_copy(update={"batch": 4}), seed))
    assert {item.key for item in batched if does(item.request["payload"], 1) == "kill"} == poison


def test_omitting_operations_does_not_change_the_rest() -> None:
    whole = generate(BUSY, 7)
    some = BUSY.model_copy(update={"only": (3, 250), "without": ("repeat", "get")})
    keys = {"S7-00002", "s7-00250", ""}
    assert generate(some, 7) == [
        operation
        for operation in whole
        if operation.key in keys and operation.kind not in {"repeat", "get"}
    ]
    assert some.least_accepted == 1


def test_only_must_name_existing_tasks() -> None:
    with pytest.raises(ValueError, match="only: 400: the 400 tasks are numbered from 0"):
        Workload.model_validate(BUSY.model_dump() | {"only": [3, 400]})
