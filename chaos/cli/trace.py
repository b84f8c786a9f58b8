"""``python -m chaos trace``: show the trace of a task whose worker is killed."""

from __future__ import annotations

from typing import Annotated

import typer

from chaos.cli.common import finish
from chaos.live.trace_demo import run_trace_demo


def show_trace(
    *, keep: Annotated[bool, typer.Option("--keep", help="Keep Jaeger until Ctrl-C.")] = False
) -> None:
    """Kill a worker while it runs a task, and draw the task's trace: both attempts, the kill."""
    finish(run_trace_demo(keep=keep))
