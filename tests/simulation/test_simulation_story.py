"""A run as a story: history and trace merged in order, showing only changes."""

from __future__ import annotations

import pytest
from life import EPOCH, Life
from specimen import Specimen

from chaos.checker.verdict import judge
from chaos.history.history import History
from chaos.history.records import Record
from chaos.simulation.kernel.node import EPOCH as VIRTUAL_EPOCH
from chaos.simulation.kernel.trace import Entry, EntryKind
from chaos.simulation.story import Story
from chaos.simulation.trace_words import answer, describe
from chaos.simulation.valkey.commands import about
from holdfast.model.lifecycle import Reason

ZERO = EPOCH.timestamp() - VIRTUAL_EPOCH


def entry(at: float, kind: EntryKind, who: str, what: str) -> Entry:
    return Entry(ZERO + at, kind, who, what)


def zombie() -> tuple[Specimen, Life]:
    """worker-1 loses its task to worker-2 and tries to finish it anyway."""
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1").end(Reason.LOST)
    life.dispatch().claim("worker-2").stale_finish("worker-1", epoch=1).succeed()
    return run, life


def story(run: Specimen, *entries: Entry, more: tuple[Record, ...] = ()) -> Story:
    history = History([*run.all_records(), *more])
    return Story(judge(history), sorted(entries, key=lambda each: each.at))


def said(lines: list[str]) -> list[str]:
    """Return lines without second and mark."""
    return [" ".join(line[11:].split()) for line in lines]


def test_story_of_a_refused_stale_write() -> None:
    run, _ = zombie()
    lines = said(story(run).text("a"))
    mine = [line for line in lines if " a " in f"{line} "]
    assert mine == [
        "client-1 a invokes submit",
        "api-1 a - -> SCHEDULED (submitted), epoch 0, attempt 0",
        "client-1 a submit is ok: status 201",
        "scheduler-1 a SCHEDULED -> QUEUED (dispatched), epoch 0, attempt 0",
        "worker-1 a QUEUED -> RUNNING (claimed), epoch 1, attempt 1",
        "scheduler-1 a RUNNING -> SCHEDULED (lease lost), epoch 2, attempt 1",
        "scheduler-1 a SCHEDULED -> QUEUED (dispatched), epoch 2, attempt 1",
        "worker-2 a QUEUED -> RUNNING (claimed), epoch 3, attempt 2",
        "worker-1 a REFUSED: succeeded under epoch 1; found RUNNING under epoch 3",
        "worker-2 a RUNNING -> SUCCEEDED (succeeded), epoch 4, attempt 2",
        "worker-2 a ledger row: epoch 4, attempt 2",
    ]


def test_story_uses_arena_seconds() -> None:
    run, _ = zombie()
    first = next(line for line in story(run).text("a") if "invokes submit" in line)
    assert float(first[1:11]) == pytest.approx(1.01)


def test_process_events_are_ordered_among_transitions() -> None:
    run = Specimen()
    run.submit("a").dispatch()
    paused = entry(run.now + 0.001, "node", "worker-1", "paused")
    run.now += 0.01
    life = run.lives[0].claim()
    killed = entry(run.now + 0.001, "node", "worker-1", "exited with -9")
    life.end(Reason.LOST)
    lines = said(story(run, paused, killed).text())
    order = [lines.index(line) for line in ("worker-1 PAUSED", "worker-1 KILLED")]
    claimed = next(n for n, line in enumerate(lines) if "claimed" in line)
    lost = next(n for n, line in enumerate(lines) if "lease lost" in line)
    assert order[0] < claimed < order[1] < lost


def test_transition_shows_wait_and_hold_of_its_statement() -> None:
    run = Specimen()
    run.submit("a").dispatch().claim("worker-1")
    at = run.now
    held = entry(at + 0.02, "sql", "worker-1", "claim -> SELECT 1 (commit held)")
    shown = said(story(run, held).text())
    assert (
        f"worker-1 a QUEUED -> RUNNING (claimed), epoch 1, attempt 1 (committed at {at + 0.02:.4f})"
        in shown
    )
    assert not any("nothing granted" in line for line in shown)
    waited = entry(at, "sql", "worker-1", "claim -> SELECT 1 (waited for a lock)")
    shown = said(story(run, waited).text())
    assert any(line.endswith("attempt 1 (after a lock wait)") for line in shown)


def test_held_statement_of_another_transition_is_not_matched() -> None:
    run = Specimen()
    run.submit("a").dispatch().claim("worker-1")
    other = entry(run.now + 0.02, "sql", "worker-1", "finish -> SELECT 1 (commit held)")
    shown = said(story(run, other).text())
    assert "worker-1 a QUEUED -> RUNNING (claimed), epoch 1, attempt 1" in shown
    assert "worker-1 finish: changed nothing (commit held)" in shown


def test_hints_are_shown_with_the_key_of_their_task() -> None:
    run = Specimen()
    life = run.submit("a").dispatch()
    command = about(
        [b"XADD", b"holdfast:hints:default", b"*", b"id", life.task_id.encode(), b"epoch", b"0"]
    )
    shown = story(run, entry(run.now, "redis", "scheduler-1", f"{command} -> ok")).text("a")
    assert "scheduler-1 a publishes its hint, epoch 0" in said(shown)


def test_unchanged_steps_are_counted_and_the_harness_is_excluded() -> None:
    run = Specimen()
    run.submit("a")
    lines = story(
        run,
        entry(1.1, "wire", "worker-1->postgres", "up #1 20 bytes"),
        entry(1.2, "sql", "scheduler-1", "dispatch -> SELECT 0"),
        entry(1.3, "redis", "worker-1", "XREADGROUP holdfast:hints:default waits"),
        entry(1.4, "wire", "harness->worker-1", "up RST"),
        entry(1.5, "node", "history", ""),
    ).text()
    assert lines[-1].strip() == "(3 steps that changed nothing are left out)"
    assert not any("harness" in line or "dispatch" in line for line in lines)


def test_evidence_is_marked() -> None:
    run = Specimen()
    life = run.submit("a").dispatch().claim("worker-1")
    life.owner = f"worker:{run.worker('worker-2')}"
    life.succeed()
    lines = story(run).text("a")
    assert [line for line in lines if line.startswith(">")], lines


def test_story_of_a_task_has_its_faults_and_no_other_task() -> None:
    run = Specimen()
    run.inject("early#1", "kill", "worker-3")
    life = run.submit("a").dispatch()
    run.submit("b").dispatch()
    run.inject("cut#1", "down", "worker-1->redis")
    life.claim()
    lines = said(story(run).text("a"))
    assert "worker-1->redis == cut#1: down begins, 2 tasks open, 0 running" in lines
    assert not any("early" in line or " b " in line for line in lines)


def test_unknown_task_error_names_the_tasks() -> None:
    run = Specimen()
    run.submit("a")
    run.submit("b")
    with pytest.raises(LookupError, match="no task c in this run; its tasks are a to b"):
        story(run).text("c")


@pytest.mark.parametrize(
    ("kind", "what", "expected"),
    [
        ("sql", "prepare claim", ""),
        ("sql", "heartbeat -> SELECT 2", ""),
        ("sql", "heartbeat -> SELECT 0", "heartbeat refused: marked dead"),
        ("sql", "claim -> SELECT 1", "claim: nothing granted, the hint was stale"),
        (
            "sql",
            "finish -> 40P01 (waited for a lock)",
            "finish failed: SQLSTATE 40P01 (waited for a lock)",
        ),
        ("sql", "BEGIN ISOLATION LEVEL -> BEGIN", ""),
        ("sql", "insert -> INSERT 0 1, COMMIT -> COMMIT", "COMMIT"),
        ("sql", "waits for a lock", "waits for a lock"),
        ("redis", "XADD holdfast:poke -> ok", ""),
        ("redis", "GET holdfast:generation -> nil", "detects hint loss: the generation is missing"),
        ("redis", "XREADGROUP hints -> error NOGROUP", "XREADGROUP hints: error NOGROUP"),
        ("wire", "down #7 lost", "message down #7 lost"),
        ("wire", "up SYN", ""),
        ("wire", "down RST", "reset"),
        ("node", "exited with 3", "exits with 3"),
        ("fault", "held#1 begins", ""),
        ("fault", "add latency upstream latency=5", "add latency upstream latency=5"),
    ],
)
def test_description_of_one_entry(kind: EntryKind, what: str, expected: str) -> None:
    assert describe(entry(0.0, kind, "worker-1", what)) == expected


def test_answer_is_parsed() -> None:
    found = answer(
        entry(0.0, "sql", "worker-1", "claim -> SELECT 3 (waited for a lock) (commit held)")
    )
    assert found is not None
    assert (found.name, found.outcome, found.rows) == ("claim", "SELECT 3", 3)
    assert found.held
    assert found.waited
    assert not found.failed
    assert answer(entry(0.0, "redis", "worker-1", "PING -> ok")) is None
