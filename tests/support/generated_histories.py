"""Generate random legal executions as histories."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st
from life import Life
from specimen import Specimen

from chaos.history.records import (
    Op,
)
from holdfast.model.lifecycle import TERMINAL, Reason, State

EFFECTS: tuple[Literal["ledger", "sql", "external"], ...] = ("ledger", "sql", "external")
WORKERS = ("worker-1", "worker-2", "worker-3")
WALK = {
    State.SCHEDULED: ("dispatch", "dispatch", "dispatch", "cancel", "read", "retry"),
    State.QUEUED: ("claim", "claim", "claim", "republish", "cancel", "submit_again", "read"),
    State.RUNNING: (
        *(
            "succeed",
            "succeed",
            "failed",
            "timed out",
            "lost",
            "back",
            "cancel",
            "call",
            "other",
            "read_events",
        ),
    ),
}
# A handler that kills its worker ends its attempts in no other way.
POISON = {**WALK, State.RUNNING: ("lost", "back", "cancel", "other")}
STEPS_MAX = 25


def _walk(draw: st.DrawFn, life: Life) -> None:
    """Take random legal steps, then the shortest path, until the task is terminal."""
    steps = 0
    while life.state not in TERMINAL:
        steps += 1
        choices = (POISON if life.poison else WALK)[life.state or State.SCHEDULED]
        step = draw(st.sampled_from(choices)) if steps < STEPS_MAX else choices[0]
        _step(life, step, draw(st.sampled_from(WORKERS)))
    if life.state is State.FAILED and not life.poison and draw(st.booleans()):
        life.retry().dispatch().claim().succeed()
    if life.lost:
        epoch = life.lost[0]
        life.stale_finish(life.run.labels[life.claimed_by[epoch]], epoch)
    if draw(st.booleans()):
        life.cancel()
    life.read()


def _step(life: Life, step: str, worker: str) -> None:
    ends = {
        "failed": Reason.FAILED,
        "timed out": Reason.TIMED_OUT,
        "lost": Reason.LOST,
        "back": Reason.RELEASED,
    }
    if step in ends:
        life.end(ends[step])
    elif step == "claim":
        life.claim(worker)
    elif step == "call":
        if life.asked["effect"] == "external":
            life.call_out()
    elif step == "other":
        life.submit_again(other=True)
    else:
        getattr(life, step)()


@st.composite
def executions(draw: st.DrawFn) -> Specimen:
    """Draw a legal run of one to four tasks of any kind."""
    run = Specimen()
    for number in range(draw(st.integers(1, 4))):
        life = run.submit(
            f"key-{number}",
            effect=draw(st.sampled_from(EFFECTS)),
            answer=draw(st.sampled_from(("ok", "ok", "info"))),
            max_attempts=draw(st.integers(1, 3)),
            later=draw(st.sampled_from((0.0, 0.0, 0.5))),
            poison=draw(st.booleans()),
        )
        run.now += 0.5
        _walk(draw, life)
    if all(op.type != "ok" or op.op != "submit" for op in run.records if isinstance(op, Op)):
        run.submit("key-ok").dispatch().claim().succeed()
    return run
