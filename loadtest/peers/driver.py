"""Runs one step of one peer: ``python -m loadtest.peers.driver NAME STEP``, in its environment.

Steps: describe, prepare, enqueue, work, watch. What there is to tell goes to standard output as
lines of JSON.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from typing import Any, cast

from loadtest.peers.place import Peer, Place

POLL_SECONDS = 0.05


def main(name: str, step: str) -> None:
    """Run it."""
    module: Any = importlib.import_module(f"loadtest.peers.{name}_peer")
    peer = cast("Peer", module)
    place = Place.here()
    match step:
        case "describe":
            _tell(
                versions={each: importlib.metadata.version(each) for each in peer.PACKAGES},
                settings=peer.SETTINGS,
                supervises=peer.SUPERVISES,
            )
        case "prepare":
            peer.prepare(place)
        case "enqueue":
            began = time.perf_counter()
            peer.enqueue(place, place.count)
            _tell(seconds=time.perf_counter() - began)
        case "work":
            peer.work(place)
        case "watch":
            _watch(peer, place)
        case _:
            raise SystemExit(f"there is no step {step}")


def _watch(peer: Peer, place: Place) -> None:
    """How many are done, again and again until all are."""
    count = peer.counter(place)
    done = -1
    while done < place.count:
        done = count()
        _tell(at=time.perf_counter(), done=done)
        time.sleep(POLL_SECONDS)


def _tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
