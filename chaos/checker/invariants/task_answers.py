"""Check every task that an answer shows against its log: S22."""

from __future__ import annotations

from chaos.checker.invariants.declaration import invariant
from chaos.checker.invariants.prefixes import Answers, Showing, acted
from chaos.checker.invariants.violation import Violation, halves
from chaos.history.history import History


@invariant("S22", "every answer with the states that the log implies")
def answers_true(history: History) -> list[Violation]:
    """Every task in an answer is as its log says it was at one instant of the operation.

    This holds for the answers to GET, submit, cancel and retry, for the items of listings, for
    events, and for 404. All fields of an answer (state, epoch, attempt, counters, cancel_requested,
    instants, result, attempts with their outcomes and errors, or the events in their order) are
    those after the first k events of the log, for one k: event k was stamped by the completion of
    the operation, and event k + 1 was not certainly committed before its invoke. It was if event
    k + 2 was stamped before the invoke, if an operation that completed before had shown it, or if
    the invoke came after the phase ``quiet``, when every task was terminal. The answer to a cancel
    or retry that was done is of a state after that. The result is that of
    the ledger, once the task has SUCCEEDED; submits and listings load neither it nor the attempts.
    """
    answers = history.view(Answers)
    return [_violation(answers, showing) for showing in answers.unexplained]


def _violation(answers: Answers, showing: Showing) -> Violation:
    log = answers.log(showing.task_id)
    op = showing.operation
    evidence = halves(op)
    what = f"the answer to a {op.invoke.op} ({op.invoke.op_id})"
    if log is None:
        message = f"{what} shows a task that is not stored"
        return Violation("S22", showing.task_id, message, evidence)
    window = acted(log, op, answers.window(log, op))
    nearest = min(window, key=lambda k: (k == 0, len(showing.wrong(log, k))), default=0)
    wrong = showing.wrong(log, nearest)
    fields = ", ".join(_difference(showing, name) for name in wrong)
    possible = f"{window.start} to {window.stop - 1} events" if window else "no state of its log"
    message = f"{what} is of no state of the task at that time ({possible}): {fields}"
    return Violation(
        "S22", showing.task_id, message, (*evidence, *log.events[nearest - 1 : nearest])
    )


def _difference(showing: Showing, name: str) -> str:
    shown = (showing.body or {}).get(name)
    return f"{name} = {str(shown)[:80]}" if showing.body and name in showing.body else name
