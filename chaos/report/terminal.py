"""Format a judged run: one aligned line, its faults, and the details unless it is ``true``."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checker.verdict import Judgement
from chaos.history.records import Bound
from chaos.report.injections import PlannedFault
from chaos.report.model import RunModel
from chaos.report.story import story

_VIOLATIONS_SHOWN = 3
_NAME_WIDTH = 32


def line(judgement: Judgement) -> str:
    """Return the verdict and the meters of a run, aligned with the lines of other runs.

    accepted: tasks reported as accepted to a client. effects: ledger rows. suppressed: calls that
    the sink recognised as duplicates. stale refused: writes that the fence refused. faults:
    injections observed, of those planned. in flight: most tasks open (and running) at an
    injection. recovery: seconds from the heal until all due tasks ended, of those allowed. spans:
    recorded spans (exempt: missing ones that S13 exempts), where S13 is judged.
    """
    meters = judgement.meters
    recovery = "-" if meters.recovery_seconds is None else f"{meters.recovery_seconds:.1f}"
    flight = f"{meters.in_flight} ({meters.running} run)"
    spans = f"spans {meters.spans} (exempt {sum(meters.excused.values())})"
    return "  ".join(
        (
            f"{judgement.scenario:<{_NAME_WIDTH}}{judgement.verdict:<7}",
            f"accepted {meters.accepted:>4}",
            f"effects {meters.effects:>4}",
            f"suppressed {meters.duplicates_suppressed:>3}",
            f"stale refused {meters.stale_writes_refused:>3}",
            f"faults {meters.faults_felt:>2}/{meters.faults_planned:<2}",
            f"in flight {flight:<12}",
            f"recovery {recovery:>4}/{meters.allowed_seconds:.1f} s",
            *([spans] if meters.spans else []),
        )
    )


def faults(judgement: Judgement) -> str:
    """Return one line per planned fault; empty for a run without faults.

    A line names the targets, the tasks in flight (and running) at each injection, and how many of
    the planned injections were observed.
    """
    return "\n".join(_fault(plan) for plan in RunModel(judgement).planned_faults)


def details(judgement: Judgement) -> str:
    """Return why a run is not ``true``; empty for a run that is.

    It names all doubts in one line, the first violations of each invariant with the story of their
    task, and the number of further violations.
    """
    return "\n".join(_details(judgement))


def bound(terms: Bound) -> str:
    """Return T with its terms, one per line."""
    rows = [f"  {term.seconds:6.2f} s  {term.name}: {term.why}" for term in terms.terms]
    return "\n".join([f"T = {terms.seconds:.2f} s, the sum of", *rows])


def _fault(plan: PlannedFault) -> str:
    targets = " ".join(dict.fromkeys(t for each in plan.injections for t in each.targets))
    flights = [
        f"{each.in_flight.open} ({each.in_flight.running} run)" if each.in_flight else "?"
        for each in plan.injections
    ]
    fault = plan.fault if plan.times < 2 else f"{plan.fault} x{plan.times}"
    met = f"in flight {' '.join(flights)}" if flights else "never injected"
    aim = targets or plan.aim
    return f"  {plan.name}: {fault} {aim}; {met}; observed {plan.observed}/{plan.times}"


def _details(judgement: Judgement) -> Iterator[str]:
    stories = RunModel(judgement).stories
    if judgement.doubts:
        reasons = "; ".join(judgement.doubts)
        yield f"  unknown: {' '.join(reasons.split())}"  # an error in it may have several lines
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
