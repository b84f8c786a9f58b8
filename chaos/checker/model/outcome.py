"""How an attempt may end: by the step that its handler was told, and by what may interrupt it.

``chaos.tasks.attempt`` says what each step does; an attempt without a step makes its effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chaos.checker.model.life import Ending

# None: the step does not end by itself.
_PLANNED: Mapping[str | None, Ending | None] = {
    None: Ending.SUCCEEDED,
    "return": Ending.SUCCEEDED,
    "leave": Ending.SUCCEEDED,
    "block": Ending.SUCCEEDED,
    "swallow": None,
    "fail": Ending.FAILED,
    "fail_late": Ending.FAILED,
    "unstorable": Ending.FAILED,
    "retry": Ending.FAILED,
    "discard": Ending.DISCARDED,
    "hang": None,
    "kill": None,
}
# The exceptions of the steps that raise one.
_RAISED = {
    "fail": "PlannedFailure",
    "fail_late": "PlannedFailure",
    "unstorable": "Unstorable",
    "retry": "Retry",
    "discard": "Discard",
}
# The steps that go on to the effect, and through both halves.
_REACHES_EFFECT = frozenset(
    {
        "fail_late",
        "unstorable",
        *(step for step, end in _PLANNED.items() if end is Ending.SUCCEEDED),
    }
)
# The exceptions of a transaction whose connection broke, or which found none: those of
# ``ctx.transaction()``, and those of SQLAlchemy for the handler's own statement. No other one is
# explained by trouble: a TypeError is a bug.
_DATABASE_TROUBLE = frozenset(
    {
        *("OutcomeUnknown", "Unavailable", "DBAPIError", "InterfaceError", "OperationalError"),
        *("ResourceClosedError", "TimeoutError"),
    }
)
_TESTIMONY = " seen "
# What the product says of a result, where the handler itself raised nothing.
_UNSTORABLE = "the result "
# What the clocks of a process and of the database may differ by within an attempt.
_EARLY_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of an attempt, with the evidence for it in the log.

    ``seconds``: from the claim to the end, by the database's clock. ``owner_dead``: its incarnation
    had been marked dead by then; ``owner_stopped``: it had been asked to stop; ``owner_retired``:
    it had then ended by itself. ``error``, ``message``: of the exception that the end names, else
    empty.
    """

    end: Ending
    seconds: float
    by_scheduler: bool
    owner_dead: bool
    owner_stopped: bool
    owner_retired: bool
    knows_name: bool
    cancel_requested: bool
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long an attempt may take, and how long its handler runs (``handler_seconds``).

    ``claim_seconds``: how long the answered claim may have been on its way. An attempt's time
    starts when its claim is sent, so by the database's clock it may seem shorter by that much.
    """

    timeout_seconds: float
    grace_seconds: float
    handler_seconds: float
    claim_seconds: float


def objection(ended: Ended, told: str | None, effect: str, limits: Limits) -> str | None:
    """Return why an attempt cannot have ended so; None if it may.

    ``told``: the step of the attempt; ``effect``: the kind of effect that its handler makes.
    """
    match ended.end:
        case Ending.LOST:
            return _lost(ended)
        case Ending.CANCELLED:
            return None if ended.cancel_requested else "nobody had asked to cancel it"
        case Ending.TIMED_OUT:
            return _timed_out(ended, limits)
        case Ending.HANDED_BACK:
            return _handed_back(ended, limits)
        case Ending.FAILED if _in_trouble(ended, told, effect):
            return None
        case _:
            return _as_told(ended, told, limits)


def _as_told(ended: Ended, told: str | None, limits: Limits) -> str | None:
    if told == "swallow" and ended.end is Ending.SUCCEEDED:
        # What it returns after a timeout does not count; after a cancel or in a stop it does.
        asked = ended.cancel_requested or ended.owner_stopped
        return None if asked else "it returns only after its timeout"
    if ended.end is not _PLANNED[told]:
        return f"it was told to {told or 'succeed'}"
    raised = _RAISED.get(told or "", "")
    said = _UNSTORABLE if told == "unstorable" else _TESTIMONY
    if ended.error != raised or (raised and said not in ended.message):
        return f"it was told to {told or 'succeed'}, but raised {ended.error}: {ended.message}"
    # The other steps that raise do so after the first half.
    least = limits.handler_seconds * (1.0 if told in _REACHES_EFFECT else 0.5) - _EARLY_SECONDS
    if ended.seconds < least:
        return f"its handler runs for {limits.handler_seconds:g} s, it took {ended.seconds:.3f} s"
    return None


def _timed_out(ended: Ended, limits: Limits) -> str | None:
    least = limits.timeout_seconds - limits.claim_seconds
    if ended.by_scheduler:
        least = limits.timeout_seconds + limits.grace_seconds
    if ended.seconds < least:
        return f"{limits.timeout_seconds:g} s were asked for, it had {ended.seconds:.3f} s"
    return None


def _lost(ended: Ended) -> str | None:
    if ended.owner_retired:  # it had ended what it had begun, and began nothing else
        return "its worker had ended by itself"
    return None if ended.owner_dead else "its worker was not dead"


def _handed_back(ended: Ended, limits: Limits) -> str | None:
    if ended.error == "UnknownName":
        return "its worker has a handler for it" if ended.knows_name else None
    if ended.error == "NotStarted":
        least = limits.grace_seconds - limits.claim_seconds
        if ended.by_scheduler:
            least = 0.0 if ended.owner_retired else limits.timeout_seconds + limits.grace_seconds
        return "its grant was not late" if ended.seconds < least else None
    if ended.by_scheduler:
        return "a scheduler cannot know that its worker does not run it"
    # Without an explanation: the worker did not know that it owned the attempt.
    if ended.error and not ended.owner_stopped:
        return "its worker had not been asked to stop"
    return None


def _in_trouble(ended: Ended, told: str | None, effect: str) -> bool:
    """Return whether the exception shows that the handler could not make its effect."""
    if told not in _REACHES_EFFECT:
        return False
    if effect == "external":
        return ended.error == "Retry" and ended.message.startswith("the sink ")
    return effect == "sql" and ended.error in _DATABASE_TROUBLE
