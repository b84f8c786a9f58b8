"""The commands of ``holdfast``: each reads the settings once and calls a factory."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID

import typer
from pydantic import ValidationError

from holdfast.errors import HoldfastError, Misconfigured
from holdfast.runtime.file_limit import connections_within, raise_file_limit
from holdfast.runtime.main_task import run_main
from holdfast.runtime.signals import reset_in_forked_children
from holdfast.settings import Settings

_GARBAGE_OBJECTS = 5_000

app = typer.Typer(
    name="holdfast",
    help="A distributed task scheduler: at-least-once delivery, exactly-once effect. "
    "Configured by HOLDFAST_* variables; `holdfast settings` lists them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def api() -> None:
    """Serve the REST API. Stateless: run any number of them."""
    with _extra("server"):
        from holdfast.api.server import run_api

    _run(run_api(_role_settings()))


@app.command()
def scheduler() -> None:
    """Dispatch due tasks and recover from crashes. Run two or more."""
    with _extra("server"):
        from holdfast.scheduler.role import run_scheduler

    _run(run_scheduler(_role_settings()))


@app.command()
def worker(
    modules: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="MODULE", help="Module with @task functions; repeatable."),
    ] = None,
) -> None:
    """Run tasks with the built-in handlers and those of --app."""
    with _extra("server"):
        from holdfast.worker.role import run_worker

    sys.path.insert(0, os.getcwd())  # noqa: PTH109  as `python -m` does

    async def work(settings: Settings) -> int:
        # Exits here, since asyncio.run would wait for a handler that ignores its cancellation.
        leave(await run_worker(settings, modules or []))

    _run(work(_role_settings()))


@app.command()
def migrate() -> None:
    """Migrate the database to the schema of this release."""
    with _extra("server"):
        from holdfast.store.migrate import upgrade_in_loop
        from holdfast.store.revision import NEWEST

    _run(_exit_zero(upgrade_in_loop(_settings())))
    typer.echo(f"the database is at migration {NEWEST}")


@app.command()
def up(
    data_dir: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Data and logs.")] = Path(
        ".holdfast"
    ),
    modules: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="MODULE", help="Module with @task functions; repeatable."),
    ] = None,
    *,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete all data first.")] = False,
    schedulers: Annotated[int, typer.Option(min=0, metavar="N", help="Number of schedulers.")] = 2,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Number of workers.")] = 2,
    trace: Annotated[
        bool, typer.Option("--trace", help="Also run Jaeger, and trace every task.")
    ] = False,
) -> None:
    """Run the whole system on this machine.

    Postgres, Valkey, the API, schedulers, workers and a mail catcher. Ctrl-C stops everything.
    """
    with _extra("embedded"):
        from holdfast.devstack.supervisor import UpOptions, run_up

    options = UpOptions(
        data_dir=data_dir,
        fresh=fresh,
        modules=tuple(modules or ()),
        schedulers=schedulers,
        workers=workers,
        trace=trace,
    )
    _run(run_up(options, _settings()))


@app.command()
def trace(
    task_id: Annotated[UUID, typer.Argument(metavar="TASK_ID", help="Id of the task.")],
    api: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Read the task from this API. Default: the database if HOLDFAST_DATABASE_URL is "
            "set, otherwise the API on this machine.",
        ),
    ] = None,
) -> None:
    """Draw the trace of a task. Reads it from Jaeger (HOLDFAST_JAEGER_URL)."""
    with _extra("server"):
        from holdfast.tools.trace import trace_of
        from holdfast.tools.trace_drawing import show

    async def draw(settings: Settings) -> int:
        found = await trace_of(task_id, settings, api)
        typer.echo(found.page)
        show(found.spans)
        return 0

    _run(draw(_settings()))


@app.command()
def mailcatcher() -> None:
    """Catch mail and show it on a web page. Delivers nothing."""
    with _extra("embedded"):
        from holdfast.devstack.mailcatcher import catch_mail

    _run(_exit_zero(catch_mail(_role_settings())))


@app.command()
def doctor() -> None:
    """Check a deployment.

    Checks versions, migrations, durability, permissions, limits and clocks, and of Redis its kind,
    the permitted commands, writes and the eviction policy; exits with 1 if a guarantee is broken.
    """
    with _extra("server"):
        from holdfast.tools.doctor import examine

    async def report() -> int:
        bad = 0
        async for result in examine(_settings()):
            typer.echo(f"{result.grade:8}{result.subject}: {result.detail}")
            bad += result.grade == "bad"
        return 1 if bad else 0

    _run(report())


@app.command()
def settings() -> None:
    """List every HOLDFAST_* variable with its default."""
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = json.dumps(default) if isinstance(default, tuple) else default
        typer.echo(f"HOLDFAST_{name.upper()}={'' if shown is None else shown}")
        typer.echo(f"    {field.description}")


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Name the extra that a command needs if its imports fail without it."""
    try:
        yield
    except ImportError as error:
        missing = error.__cause__ or error  # SQLAlchemy's own message is a paragraph
        typer.echo(f"holdfast: {missing}; run pip install 'holdfast[{name}]'", err=True)
        raise typer.Exit(2) from error


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"])
            variable = f"HOLDFAST_{field.upper()}: " if field else ""
            complaint = problem["msg"].removeprefix("Value error, ")
            typer.echo(f"holdfast: {variable}{complaint}", err=True)
        raise typer.Exit(2) from error


def _role_settings() -> Settings:
    """Return the settings of a server, with as many connections as its open files allow."""
    settings = _settings()
    connections = connections_within(raise_file_limit(), settings.connections_max)
    return settings.model_copy(update={"connections_max": connections})


async def _exit_zero(work: Coroutine[Any, Any, None]) -> int:
    await work
    return 0


def _run(work: Coroutine[Any, Any, int]) -> None:
    with _extra("server"):
        import uvloop

    _collect_less_often()
    reset_in_forked_children()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = run_main(runner.get_loop(), work)
    except Misconfigured as error:
        typer.echo(f"holdfast: {error}", err=True)
        raise typer.Exit(2) from error
    except (HoldfastError, OSError, ValueError) as error:
        typer.echo(f"holdfast: {error}", err=True)
        raise typer.Exit(1) from error
    if code:
        raise typer.Exit(code)


def _collect_less_often() -> None:
    """Enable garbage collection, but exempt what imports created, which all stays.

    Looking for cycles among it, and after every 700 new objects, took a tenth of the drain and a
    quarter of a batch of submits; nearly all other objects are freed by their reference count.
    """
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    gc.enable()


def leave(code: int) -> NoReturn:
    """End the process immediately: the thread of a plain handler may never end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
