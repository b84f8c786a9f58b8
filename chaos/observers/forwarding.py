"""Forward the spans of a run to the user's collector, if one is configured."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import httpx

from chaos.observers.collector import PROTOBUF, TRACES_PATH

ENDPOINT = "HOLDFAST_OTLP_ENDPOINT"
_BATCH_BYTES = 1 << 20
_TIMEOUT_SECONDS = 5.0


def forward(exports: Sequence[bytes]) -> None:
    """Send what the collector of a run received to ``HOLDFAST_OTLP_ENDPOINT``, if that is set.

    A failure prints a line to stderr and does not affect the run.
    """
    endpoint = os.environ.get(ENDPOINT)
    if not endpoint:
        return
    try:
        with httpx.Client(trust_env=False, timeout=_TIMEOUT_SECONDS) as client:
            for batch in _batches(exports):
                client.post(
                    endpoint.rstrip("/") + TRACES_PATH,
                    content=batch,
                    headers={"content-type": PROTOBUF},
                ).raise_for_status()
    except httpx.HTTPError as error:
        print(f"spans were not forwarded to {endpoint}: {error!r}", file=sys.stderr)


def _batches(exports: Sequence[bytes]) -> Iterator[bytes]:
    """Concatenate exports: concatenated protobuf messages merge their repeated fields."""
    batch = b""
    for export in exports:
        if batch and len(batch) + len(export) > _BATCH_BYTES:
            yield batch
            batch = b""
        batch += export
    if batch:
        yield batch
