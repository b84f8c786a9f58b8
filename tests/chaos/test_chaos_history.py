"""The history file: what is written is read back, and what is wrong in it is named by its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from specimen import Specimen, instant

from chaos.history.history import History, HistoryError, HistoryWriter, load
from chaos.history.records import Op, Run, Sometimes, TaskRow


def a_run() -> Specimen:
    run = Specimen()
    life = run.submit("a", effect="sql").dispatch().claim()
    run.inject("kill-1#1", "kill", "worker-1")
    life.succeed().submit_again().cancel().read()
    return run


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    records = a_run().all_records()
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.write(*records)
    assert list(load(path).records) == records


def test_each_record_is_on_disk_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        for number, record in enumerate(a_run().all_records(), start=1):
            writer.write(record)
            assert len(path.read_bytes().splitlines()) == number


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind":"rumour"}', "'rumour'"),
        ('{"at":1}', "kind"),
        ("not json", "Invalid JSON"),
        ('{"kind":"phase","phase":"healed"}', "phase.at: Field required"),
        ('{"kind":"phase","phase":"healed","at":1,"by":"me"}', "phase.by: Unexpected"),
        ('{"kind":"phase","phase":"cured","at":1}', "'faults', 'healed' or 'drained'"),
        ('{"kind":"worker","worker_id":"w","label":"l","started_at":"2026-01-09"}', "offset"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "h.jsonl", '{"kind":"phase","phase":"faults","at":0}', line)
    with pytest.raises(HistoryError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_a_history_without_its_run_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "h.jsonl", '{"kind":"phase","phase":"faults","at":0}')
    with pytest.raises(HistoryError, match=r"h\.jsonl: a history starts with its only run record"):
        load(path)


def test_contradicting_records_are_refused() -> None:
    records = a_run().all_records()
    run, task = records[0], next(r for r in records if isinstance(r, TaskRow))
    ops = [r for r in records if isinstance(r, Op)]
    with pytest.raises(HistoryError, match="only run record"):
        History([*records, run])
    with pytest.raises(HistoryError, match="only run record"):
        History([*records[1:], run])
    with pytest.raises(HistoryError, match="is twice in the final read"):
        History([*records, task])
    with pytest.raises(HistoryError, match="is invoked twice"):
        History([*records, ops[0]])
    with pytest.raises(HistoryError, match="completes no open invoke"):
        History([*records, ops[1]])
    with pytest.raises(HistoryError, match="completes no open invoke"):
        History([*records, replace(ops[1], op_id="unheard of")])


def test_an_open_operation_is_unknown() -> None:
    run = Specimen()
    invoke = run.op("cancel", {"task_id": "x"})
    (operation,) = run.history().of("cancel")
    assert (operation.type, operation.value) == ("info", {"task_id": "x"})
    run.complete(invoke, "ok", {"answer": "cancelled"})
    (operation,) = run.history().of("cancel")
    assert operation.type == "ok"
    assert operation.value == {"task_id": "x", "answer": "cancelled"}


def test_a_submit_finds_its_task_by_key_else_by_id() -> None:
    run = Specimen()
    unknown = run.submit("a", answer="info")
    run.op("submit", {"key": "never stored"})
    keyless = run.op("submit", {"key": None})
    run.complete(keyless, "ok", {"task_id": unknown.task_id})
    history = run.history()
    found = [history.task_of(submit) for submit in history.of("submit")]
    assert [task.task_id if task else None for task in found] == [
        unknown.task_id,
        None,
        unknown.task_id,
    ]
    assert len(history.submits_by_task[unknown.task_id]) == 2


def test_instants_of_the_database_lie_on_the_arenas_clock() -> None:
    history = a_run().history()
    assert history.seconds(instant(3.25)) == 3.25
    assert history.seconds("2026-01-09T11:00:01+01:00") == 1.0
    assert isinstance(history.records[0], Run)


def test_what_held_once_held() -> None:
    run = Specimen()
    run.records += [
        Sometimes(name="stale_hint_delivered", held=held) for held in (False, True, False)
    ]
    assert run.history().sometimes["stale_hint_delivered"].held


def test_view_is_computed_once_per_history() -> None:
    computed: list[History] = []

    def view(history: History) -> int:
        computed.append(history)
        return len(history.records)

    one, other = Specimen().history(), Specimen().history()
    assert [one.view(view), one.view(view), other.view(view)] == [4, 4, 4]
    assert computed == [one, other]
