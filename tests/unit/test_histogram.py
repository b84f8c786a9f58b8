"""The histogram renders the same text as prometheus_client's."""

from __future__ import annotations

from typing import Any

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from holdfast.telemetry.histogram import Histogram

BOUNDS = (0.001, 0.5, 1, 30)
EDGES = st.sampled_from((0.0, *BOUNDS, 31.0)) | st.floats(0, 1e6)
EXEMPLARS = st.none() | st.sampled_from([{"trace_id": "a" * 32}, {"trace_id": "b" * 32}])
OBSERVED = st.lists(st.tuples(st.sampled_from("xy"), EDGES, EXEMPLARS), max_size=30)


def _exposed(metric: type[Any], extra: dict[str, Any], observed: list[Any]) -> list[list[str]]:
    registry = CollectorRegistry()
    histogram = metric("seconds", "Some text", ["queue"], **extra)
    registry.register(histogram)
    for queue, value, exemplar in observed:
        histogram.labels(queue).observe(value, exemplar)
    texts = (generate_latest(registry), openmetrics.generate_latest(registry))  # type: ignore[no-untyped-call]
    return [
        sorted(_timeless(line) for line in text.decode().splitlines() if "_created" not in line)
        for text in texts
    ]


def _timeless(line: str) -> str:
    """Remove the timestamp of an exemplar, the last of three words after the #."""
    sample, mark, exemplar = line.partition(" # ")
    return f"{sample}{mark}{exemplar.rpartition(' ')[0]}" if mark and "_bucket" in line else line


@given(OBSERVED)
def test_exposition_equals_that_of_the_library(observed: list[Any]) -> None:
    ours = _exposed(Histogram, {"bounds": BOUNDS}, observed)
    theirs = _exposed(prometheus_client.Histogram, {"buckets": BOUNDS, "registry": None}, observed)
    assert ours == theirs
