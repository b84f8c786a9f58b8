"""What each task was told: its request, its declaration, and its attempts with their evidence.

This translates the records of a history into the plain values of the reference model
(``chaos.checker.model``), on which S7, S18 to S21 are built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from chaos.checker.model import json_value
from chaos.checker.model.configuration import Configuration
from chaos.checker.model.life import Ending, Life
from chaos.checker.model.request import Asked, Stored, stored
from chaos.history.history import History, Operation
from chaos.history.records import Event, TaskRow, parse_instant
from chaos.tasks.declarations import DECLARATIONS, Declaration
from chaos.tasks.steps import step_of
from holdfast.model.lifecycle import Reason

_SEEN = " seen "


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that ended. ``life``: the task after this end, by the model."""

    number: int
    claim: Event
    end: Event
    kind: Ending
    life: Life

    @property
    def seconds(self) -> float:
        """From the claim to the end, by the database's clock."""
        return (parse_instant(self.end.at) - parse_instant(self.claim.at)).total_seconds()

    @property
    def by_scheduler(self) -> bool:
        return self.end.actor.startswith("scheduler:")

    @property
    def error(self) -> Mapping[str, Any]:
        """Type and message of the exception that the end names; empty without one."""
        found: Mapping[str, Any] = (self.end.detail or {}).get("error") or {}
        return found

    @property
    def seen(self) -> Any:
        """What the handler testified in a planned exception; None if it raised none."""
        _, mark, testimony = str(self.error.get("message", "")).rpartition(_SEEN)
        return json.loads(testimony) if mark else None


@dataclass(frozen=True, slots=True)
class Told:
    """One task: its row, the submit that made it, what is stored for that, and its declaration.

    ``declared`` is None for handlers that the workload does not declare (``--app``): they take no
    steps, and what they declare is not known.
    """

    row: TaskRow
    submit: Operation
    stored: Stored
    declared: Declaration | None
    events: tuple[Event, ...]

    def step(self, attempt: int) -> Mapping[str, Any]:
        """Return what the handler does in this attempt."""
        return step_of(self.stored.payload, attempt)

    @property
    def final(self) -> Life:
        """The task after its whole log, by the model."""
        life = self._begin()
        for life in self._lives():  # noqa: B007 - the last one counts
            pass
        return life

    def attempts(self) -> Iterator[Attempt]:
        """Yield the attempts that ended, in order; those without a claim are left to S9."""
        claim: Event | None = None
        for event, life in zip(self.events, self._lives(), strict=True):
            if event.reason == Reason.CLAIMED:
                claim = event
            elif claim is not None and event.from_state == "RUNNING" != event.to_state:
                if event.reason in {*Ending}:
                    yield Attempt(claim.attempt, claim, event, Ending(event.reason), life)
                claim = None

    def _begin(self) -> Life:
        return Life(max_attempts=self.stored.max_attempts, max_losses=self.stored.max_losses)

    def _lives(self) -> Iterator[Life]:
        """Yield the task after each event, by the model; what S6 reports changes nothing here."""
        life = self._begin()
        for event in self.events:
            match event.reason:
                case Reason.CLAIMED:
                    life = life.claimed()
                case Reason.CANCEL_REQUESTED:
                    life = life.cancel_asked()
                case Reason.RETRIED:
                    life = life.retried()
                case Reason.CANCELLED if event.from_state != "RUNNING":
                    life = life.cancel_asked()
                case reason if reason in {*Ending}:
                    life = life.ended(Ending(reason))
            yield life


def told(history: History) -> dict[str, Told]:
    """Return what each task was told; tasks that nobody submitted are left to S2."""
    return history.view(_told)


def configuration(history: History) -> Configuration:
    """Return the configuration of the run."""
    return Configuration.of(history.run.settings)


def asked(submit: Operation) -> Asked:
    """Return what a submit asks for."""
    sent = submit.invoke.value
    return Asked.of(sent, sent.get("key"))


def shown(row: TaskRow) -> Mapping[str, Any]:
    """Return the fields of a row by the names that the API gives them."""
    return asdict(row) | {"idempotency_key": row.key}


def differences(due: Stored, view: Mapping[str, Any]) -> list[str]:
    """Return the fields of the request in which a row or an answer differs from it.

    Limits that a retry by hand raises are not compared.
    """
    found = [
        name
        for name in ("name", "payload", "queue", "priority", "timeout_seconds", "idempotency_key")
        if not json_value.equal(getattr(due, name), view[name])
    ]
    run_at = due.run_at or parse_instant(view["created_at"])
    return found + (["run_at"] if run_at != parse_instant(view["run_at"]) else [])


def _told(history: History) -> dict[str, Told]:
    found: dict[str, Told] = {}
    for task_id, row in history.tasks.items():
        submits = history.submits_by_task.get(task_id, ())
        # What was promised counts; else what may have been stored.
        candidates = [each for each in submits if each.type == "ok"] or [
            each for each in submits if each.type == "info"
        ]
        options = [_of_submit(each, row, history) for each in candidates]
        same = (each for each in options if not differences(each.stored, shown(row)))
        if options:
            found[task_id] = next(same, options[0])
    return found


def _of_submit(submit: Operation, row: TaskRow, history: History) -> Told:
    request = asked(submit)
    declared = DECLARATIONS.get(request.name)
    if declared is None:  # what was not asked for is as the handler declares: not known here
        request = replace(
            request,
            max_attempts=request.max_attempts or row.max_attempts,
            timeout_seconds=request.timeout_seconds or row.timeout_seconds,
        )
    due = stored(request, declared, configuration(history))
    return Told(row, submit, due, declared, history.events.get(row.task_id, ()))
