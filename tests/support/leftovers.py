"""Find what a finished run left behind."""

from __future__ import annotations

from pathlib import Path

import psutil


def processes_of(directory: Path) -> list[psutil.Process]:
    """Return processes whose command line, working directory or TMPDIR names ``directory``."""
    found = []
    for process in psutil.process_iter():
        try:
            places = [*process.cmdline(), process.cwd(), process.environ().get("TMPDIR", "")]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(str(directory) in place for place in places):
            found.append(process)
    return found
