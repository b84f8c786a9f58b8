"""A role whose wall clock can be set.

Usage: ``python -m chaos.live.clock_skew_role FILE holdfast worker --app ...``.

On SIGUSR1 it reads the offset in seconds from FILE, moves the clock that all
Python code of the process reads (``time-machine``; monotonic clocks stay), and writes what that
clock now shows to ``FILE.shows`` (Unix time). The code of the role is not changed.
"""

from __future__ import annotations

import datetime as dt
import runpy
import signal
import sys
import time
from pathlib import Path

import time_machine


def main() -> None:
    """Run the module named in the arguments with a settable clock."""
    offset_file, module, *arguments = sys.argv[1:]
    wish, shows = Path(offset_file), Path(f"{offset_file}.shows")
    clock = time_machine.travel(dt.datetime.now(dt.UTC), tick=True).start()

    def be_ahead(seconds: float) -> None:
        now = time.time() - time_machine.escape_hatch.time.time()
        clock.shift(dt.timedelta(seconds=seconds - now))

    def move(*_: object) -> None:
        be_ahead(float(wish.read_text(encoding="ascii")))
        draft = shows.with_suffix(".draft")
        draft.write_text(repr(time.time()), encoding="ascii")
        draft.rename(shows)

    be_ahead(0.0)  # compensates for the time since travel() began
    signal.signal(signal.SIGUSR1, move)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
