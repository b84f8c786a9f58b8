from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from chaos.load import Workload
from chaos.workload import CLIENTS, Planned, from_json, plan, share, to_json

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
ROOT = Path(__file__).parent.parent


def of(operations: list[Planned], kind: str) -> list[Planned]:
    return [operation for operation in operations if operation.kind == kind]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_the_same_seed_gives_the_same_list_in_any_process(hash_seed: str) -> None:
    code = (
        "import json; from chaos.load import Workload; from chaos.workload import *;"
        f"w = Workload.model_validate_json({BUSY.model_dump_json()!r});"
        "print(json.dumps(to_json(plan(w, 7))))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert from_json(json.loads(there.stdout)) == plan(BUSY, 7)


def test_another_seed_gives_another_list() -> None:
    assert to_json(plan(BUSY, 7)) != to_json(plan(BUSY, 8))


def test_every_task_is_submitted_once_under_its_own_key_within_the_time() -> None:
    submits = of(plan(BUSY, 1), "submit")
    assert len(submits) == BUSY.tasks
    assert len({submit.key for submit in submits}) == BUSY.tasks
    assert all(0 <= submit.at <= BUSY.seconds for submit in submits)
    assert {submit.effect for submit in submits} == {"ledger", "sql", "external"}


def test_shares_are_kept_roughly() -> None:
    operations = plan(BUSY, 3)
    count: Counter[str] = Counter(operation.kind for operation in operations)
    wanted = {"repeat": BUSY.repeats, "cancel": BUSY.cancels, "get": BUSY.reads}
    for kind, part in (wanted | {"mismatch": BUSY.mismatches}).items():
        assert count[kind] == pytest.approx(BUSY.tasks * part, rel=0.35), kind
    later = [submit for submit in of(operations, "submit") if submit.run_after is not None]
    assert len(later) == pytest.approx(BUSY.tasks * 0.3, rel=0.35)
    assert count["list"] == count["get"] // 10


def test_a_repeat_asks_for_exactly_the_same_and_a_mismatch_for_something_else() -> None:
    operations = plan(BUSY, 5)
    first = {submit.key: submit for submit in of(operations, "submit")}
    for repeat in of(operations, "repeat"):
        original = first[repeat.key]
        assert (repeat.request, repeat.run_after) == (original.request, original.run_after)
        assert repeat.at >= original.at
    for mismatch in of(operations, "mismatch"):
        assert mismatch.request["payload"] != first[mismatch.key].request["payload"]
        assert mismatch.client == first[mismatch.key].client
    assert any(repeat.at == first[repeat.key].at for repeat in of(operations, "repeat"))


def test_a_task_is_cancelled_and_read_by_the_client_that_submitted_it() -> None:
    operations = plan(BUSY, 5)
    owner = {submit.key: submit.client for submit in of(operations, "submit")}
    followers = of(operations, "cancel") + of(operations, "get")
    assert followers
    assert all(owner[operation.key] == operation.client for operation in followers)


def test_clients_share_the_whole_list_in_order() -> None:
    operations = plan(BUSY, 2)
    shares = [share(operations, client) for client in range(CLIENTS)]
    assert all(shares)
    shared = [operation for each in shares for operation in each]
    assert sorted(map(repr, shared)) == sorted(map(repr, operations))
