"""``python -m chaos``: break Holdfast and check the guarantees it keeps."""

from __future__ import annotations

import sys

import typer

from chaos.cli.mutants import run_mutants
from chaos.cli.run import run_scenarios
from chaos.cli.store import check_history, list_scenarios, rebuild_report
from chaos.cli.sweep import sweep_messages
from chaos.cli.torture import torture_stack
from chaos.cli.trace import show_trace

app = typer.Typer(
    name="chaos",
    help="Break every part of Holdfast and check that each accepted task has its effect once. "
    "Exits with 0 only if every verdict is true.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run_scenarios)
app.command("trace")(show_trace)
app.command("check")(check_history)
app.command("mutants")(run_mutants)
app.command("sweep")(sweep_messages)
app.command("torture")(torture_stack)
app.command("report")(rebuild_report)
app.command("list")(list_scenarios)

if __name__ == "__main__":
    sys.exit(app())
