"""One aligned line per scenario, and the details where it is not ``true``."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.records import Bound
from chaos.report.story import Stories, story
from chaos.report.strikes import Planned, planned
from chaos.verdict import Judgement

_VIOLATIONS_SHOWN = 3
_NAME_WIDTH = 32


def line(judgement: Judgement) -> str:
    """The verdict and the meters of a run, aligned under those of other runs.

    accepted: tasks that a client was told are accepted. effects: ledger rows. suppressed: calls
    that the sink recognised as duplicates. stale refused: writes that the fence refused. felt:
    strikes felt of those planned. in flight: most tasks open (and running) when a fault struck.
    recovery: seconds from the heal until all was done that was due, of those allowed. spans: of
    all traces (excused: missing for a good reason), where S13 is judged.
    """
    meters = judgement.meters
    recovery = "-" if meters.recovery_seconds is None else f"{meters.recovery_seconds:.1f}"
    flight = f"{meters.in_flight} ({meters.running} run)"
    spans = f"spans {meters.spans} (excused {sum(meters.excused.values())})"
    return "  ".join(
        (
            f"{judgement.scenario:<{_NAME_WIDTH}}{judgement.verdict:<7}",
            f"accepted {meters.accepted:>4}",
            f"effects {meters.effects:>4}",
            f"suppressed {meters.duplicates_suppressed:>3}",
            f"stale refused {meters.stale_writes_refused:>3}",
            f"felt {meters.faults_felt:>2}/{meters.faults_planned:<2}",
            f"in flight {flight:<12}",
            f"recovery {recovery:>4}/{meters.allowed_seconds:.1f} s",
            *([spans] if meters.spans else []),
        )
    )


def faults(judgement: Judgement) -> str:
    """One line per planned fault: what it struck, the tasks that were in flight (and running) at
    each strike, and how many of the planned strikes were felt. Empty for a run without faults.
    """
    return "\n".join(_fault(plan) for plan in planned(judgement.history))


def details(judgement: Judgement) -> str:
    """Why a run is not ``true``: each doubt, the first violations of each law with the story of
    their task, and how many more there are. Empty for a run that is ``true``.
    """
    return "\n".join(_details(judgement))


def bound(terms: Bound) -> str:
    """T with its terms, one per line."""
    rows = [f"  {term.seconds:6.2f} s  {term.name}: {term.why}" for term in terms.terms]
    return "\n".join([f"T = {terms.seconds:.2f} s, the sum of", *rows])


def _fault(plan: Planned) -> str:
    targets = " ".join(dict.fromkeys(t for strike in plan.strikes for t in strike.targets))
    flights = [
        f"{strike.in_flight.open} ({strike.in_flight.running} run)" if strike.in_flight else "?"
        for strike in plan.strikes
    ]
    fault = plan.fault if plan.times < 2 else f"{plan.fault} x{plan.times}"
    met = f"in flight {' '.join(flights)}" if flights else "never struck"
    return f"  {plan.name}: {fault} {targets or plan.aim}; {met}; felt {plan.felt}/{plan.times}"


def _details(judgement: Judgement) -> Iterator[str]:
    stories = Stories(judgement.history)
    for doubt in judgement.doubts:
        yield f"  unknown: {doubt}"
    laws = dict.fromkeys(violation.invariant for violation in judgement.violations)
    for law in laws:
        found = [v for v in judgement.violations if v.invariant == law]
        for violation in found[:_VIOLATIONS_SHOWN]:
            subject = f"task {violation.task_id}" if violation.task_id else "the run"
            yield f"  {law} violated by {subject}: {violation.message}"
            if violation.task_id:
                yield from story(judgement.history, violation.task_id, violation.evidence, stories)
        if len(found) > _VIOLATIONS_SHOWN:
            yield f"  {law}: {len(found) - _VIOLATIONS_SHOWN} more violations"
