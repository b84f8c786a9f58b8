"""The history file: it reads back as written, and errors name file and line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from life import instant
from specimen import Specimen

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


def test_history_reads_back_as_written(tmp_path: Path) -> None:
    records = a_run().all_records()
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        writer.write(*records)
    assert list(load(path).records) == records


def test_each_record_is_flushed_when_written(tmp_path: Path) -> None:
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
        (
            '{"kind":"phase","phase":"cured","at":1}',
            "'faults', 'healing', 'healed', 'quiet' or 'drained'",
        ),
        ('{"kind":"worker","worker_id":"w","label":"l","started_at":"2026-01-09"}', "offset"),
    ],
)
def test_invalid_line_is_reported_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "h.jsonl", '{"kind":"phase","phase":"faults","at":0}', line)
    with pytest.raises(HistoryError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_history_without_a_run_record_is_refused(tmp_path: Path) -> None:
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


def test_operation_without_completion_is_unknown() -> None:
    run = Specimen()
    invoke = run.op("cancel", {"task_id": "x"})
    (operation,) = run.history().of("cancel")
    assert (operation.type, operation.value) == ("info", {"task_id": "x"})
    run.complete(invoke, "ok", {"answer": "cancelled"})
    (operation,) = run.history().of("cancel")
    assert operation.type == "ok"
    assert operation.value == {"task_id": "x", "answer": "cancelled"}


def test_submit_finds_its_task_by_key_or_id() -> None:
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


def test_database_instants_convert_to_arena_seconds() -> None:
    history = a_run().history()
    assert history.seconds(instant(3.25)) == 3.25
    assert history.seconds("2026-01-09T11:00:01+01:00") == 1.0
    assert isinstance(history.records[0], Run)


def test_an_occurrence_that_held_once_takes_precedence() -> None:
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
    assert [one.view(view), one.view(view), other.view(view)] == [5, 5, 5]
    assert computed == [one, other]
