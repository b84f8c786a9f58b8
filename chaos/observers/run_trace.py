"""The harness's own spans: one trace per run, ``run {scenario}`` with a child for each injection.

They are computed from the records of the faults, so that exporting a run twice has them once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256

from chaos.history.records import Fault, Run
from chaos.history.spans import Span, SpanEvent

SERVICE = "holdfast-chaos"


def run_spans(run: Run, faults: Iterable[Fault], now: float) -> list[Span]:
    """Return the spans of a run that ends ``now`` (arena seconds), as do its unfinished faults."""
    name = str(run.scenario["id"])
    whole = _span(run, name=f"run {name}", span_id=_span_id(run, ""), parent=None, times=(0.0, now))
    by_fault_id: defaultdict[str, dict[str, Fault]] = defaultdict(dict)
    for record in faults:
        by_fault_id[record.fault_id][record.type] = record
    return [whole, *(_fault_span(run, whole, records, now) for records in by_fault_id.values())]


def _fault_span(run: Run, whole: Span, records: dict[str, Fault], now: float) -> Span:
    start = records["start"]
    end = records["end"].at if "end" in records else now
    observed = records.get("felt")
    return _span(
        run,
        name=f"{start.fault} {', '.join(start.targets)}",
        span_id=_span_id(run, start.fault_id),
        parent=whole.span_id,
        times=(start.at, end),
        attributes={
            "chaos.fault_id": start.fault_id,
            "chaos.fault": start.fault,
            "chaos.targets": list(start.targets),
        },
        events=(SpanEvent(name="felt", at=observed.at),) if observed else (),
    )


def _span(
    run: Run,
    *,
    name: str,
    span_id: str,
    parent: str | None,
    times: tuple[float, float],
    attributes: dict[str, object] | None = None,
    events: tuple[SpanEvent, ...] = (),
) -> Span:
    about = {"chaos.scenario": run.scenario["id"], "chaos.seed": run.seed}
    about |= {"chaos.mutant": run.mutant} if run.mutant else {}
    return Span(
        name=name,
        role="internal",
        trace_id=_digest(run, "trace")[:32],
        span_id=span_id,
        parent_span_id=parent,
        service=SERVICE,
        instance=run.arena,
        start=times[0],
        end=times[1],
        status="unset",
        attributes=about | (attributes or {}),
        events=events,
    )


def _span_id(run: Run, fault_id: str) -> str:
    return _digest(run, f"span {fault_id}")[:16]


def _digest(run: Run, what: str) -> str:
    known = f"{run.scenario['id']} {run.seed} {run.arena} {run.database_epoch} {run.mutant} {what}"
    return sha256(known.encode()).hexdigest()
