"""Run one step of a peer in its environment: ``python -m loadtest.peers.driver NAME STEP``.

Steps: describe, prepare, enqueue, work, watch. Results are printed as lines of JSON.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from typing import Any, cast

from loadtest.peers.peer_api import Peer, PeerConfig

POLL_SECONDS = 0.05


def main(name: str, step: str) -> None:
    """Run the step."""
    module: Any = importlib.import_module(f"loadtest.peers.{name}_peer")
    peer = cast("Peer", module)
    config = PeerConfig.from_environment()
    match step:
        case "describe":
            _print(
                versions={each: importlib.metadata.version(each) for each in peer.PACKAGES},
                settings=peer.SETTINGS,
                effect=getattr(peer, "EFFECT", ""),
                supervises=peer.SUPERVISES,
            )
        case "prepare":
            peer.prepare(config)
        case "enqueue":
            began = time.perf_counter()
            peer.enqueue(config, config.count)
            _print(seconds=time.perf_counter() - began)
        case "work":
            peer.work(config)
        case "watch":
            _watch(peer, config)
        case _:
            raise SystemExit(f"unknown step {step}")


def _watch(peer: Peer, config: PeerConfig) -> None:
    """Print the number of finished tasks periodically until all are."""
    count = peer.counter(config)
    done = -1
    while done < config.count:
        done = count()
        _print(at=time.perf_counter(), done=done)
        time.sleep(POLL_SECONDS)


def _print(**result: Any) -> None:
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
