"""The real Postgres behind simulated runs: one per OS process, reset for each run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Self

from chaos.scenario.faults import DeclaredSettings
from chaos.simulation.kernel import audit
from chaos.simulation.postgres.backend import Backend, Control
from chaos.tasks.sql import CHAOS_EFFECTS
from holdfast.devstack.host import reachable, temporary_directory
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.servers import EmbeddedPostgres
from holdfast.store.migrate import upgrade_in_loop

DATABASE = "holdfast"
_NAME = "simulation"
_SCHEMA = Path(__file__).with_name("schema.sql")
# The size of this file in bytes is the database's clock: microseconds since the day before EPOCH.
# It is sparse, so it takes no space. Setting it costs 0.6 us (a round trip for setval() or
# set_config(): 37 us), reading it 1.2 us (a sequence: 0.15 us; pg_read_file(): 3.3 us).
_CLOCK_FILE = "simulated_clock"
_SPARE_SECONDS = 86_400  # because a clock may be before EPOCH
_MEMORY = Path("/dev/shm")  # noqa: S108 - the file system in memory, where there is one
_MEMORY_BYTES_MIN = 1 << 30
_TIDY_EVERY = 50
_LEFT_SECONDS = 10.0

_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "64MB",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "1d",  # no checkpoint during a run: sequences jump after a crash
    "autovacuum": "off",
    "jit": "off",
    # Custom plans take longer than the execution of these statements on small tables.
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "deadlock_timeout": "5ms",
    "log_min_error_statement": "panic",
    # These count real time; PostgresNode implements them in virtual time.
    "idle_in_transaction_session_timeout": "0",
    "client_connection_check_interval": "0",
}


class SharedPostgres:
    """A real server, one for all runs of this OS process; its data is in memory if possible.

    A context manager, to be entered outside of any event loop. Entering starts the server and
    migrates the database; leaving stops it and removes its directory.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._directory: Path | None = None
        self._server: _Server | None = None
        self._control: Control | None = None
        self._clock = -1
        self._clock_size = 0
        self._resets = 0
        self._isolated = False

    def __enter__(self) -> Self:
        self._directory = _directory()
        self._reaper.own_directory(self._directory)
        self._server = _Server(self._directory, durable=False, reaper=self._reaper)
        try:
            self._server.start()
            self._server.create_database(DATABASE)
            self._clock = os.open(self._server.cluster / _CLOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
            self.set_clock(0.0)
            self._migrate()
            self._control = self.session(_NAME)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        with audit.real():
            self._hang_up()
            if self._clock >= 0:
                os.close(self._clock)
                self._clock = -1
            if self._server is not None:
                self._server.stop()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._reaper.disown_directory(self._directory)
        self._directory = self._server = None

    @property
    def pid(self) -> int | None:
        """The pid of the real server's main process while it runs."""
        return self._server.pid if self._server else None

    @property
    def url(self) -> str:
        """The URL of the database for real clients, before or after a run."""
        return self._entered().url(DATABASE)

    @property
    def control(self) -> Control:
        """The arena's own connection to the database."""
        if self._control is None:
            raise RuntimeError("the real Postgres does not run")
        return self._control

    def set_clock(self, seconds: float) -> None:
        """Set ``clock_timestamp()``, in virtual seconds after EPOCH."""
        size = round((_SPARE_SECONDS + seconds) * 1e6)
        if size != self._clock_size:
            self._clock_size = size
            os.ftruncate(self._clock, size)

    def connect(self) -> Backend:
        """Open a connection without a startup message.

        Raises:
            Gone: the server does not run.
        """
        return Backend(self._entered().socket)

    def session(self, name: str) -> Control:
        """Open another session of the arena, under this application name."""
        return Control(self._entered().socket, DATABASE, name)

    def start(self) -> None:
        """Start the server again; after a kill it recovers what was committed."""
        with audit.real():
            self._entered().start()
        self._control = self.session(_NAME)

    def kill(self) -> None:
        """Send SIGKILL to all processes of the server and wait until they have ended."""
        with audit.real():
            if self._control is not None:
                self._control.drop()
                self._control = None
            self._entered().kill()

    def stop(self) -> None:
        """Shut down gracefully. No backend may be stopped (SIGSTOP)."""
        self._hang_up()
        with audit.real():
            self._entered().stop()

    def reset(self) -> None:
        """Prepare for the next run: server running, no connections, all tables empty."""
        if self.pid is None:
            self.start()
        self.end_backends()
        self._resets += 1
        if self._resets % _TIDY_EVERY == 0:  # each TRUNCATE leaves dead rows in the catalogue
            for what in ("pg_class", "pg_type", "pg_attribute", "pg_sequence"):
                self.control.rows(f"VACUUM pg_catalog.{what}")
            self.control.rows("CHECKPOINT")
        if self._isolated:
            self.control.rows(f"ALTER DATABASE {DATABASE} RESET default_transaction_isolation")
            self._isolated = False
        self.control.rows("SELECT sim.reset()")
        self.set_clock(0.0)

    def isolate(self, level: str) -> None:
        """Set the isolation level of sessions that ask for none, until ``reset``."""
        self.control.rows(
            f"ALTER DATABASE {DATABASE} SET default_transaction_isolation = '{level}'"
        )
        self._isolated = True

    def end_backends(self) -> None:
        """End all backends, stopped ones too: a run may have been interrupted."""
        left = (
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        with audit.real():
            give_up = time.monotonic() + _LEFT_SECONDS
            while rows := self.control.rows(left):
                for pid, _ in rows:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGCONT)
                if time.monotonic() > give_up:
                    raise RuntimeError(f"backends {rows} of the last run did not end")

    def _migrate(self) -> None:
        with audit.real():
            control = self.session(_NAME)
            control.rows(_SCHEMA.read_text(encoding="utf-8"))
            control.close()
            asyncio.run(upgrade_in_loop(DeclaredSettings(database_url=self.url)))
            control = self.session(_NAME)
            control.rows(CHAOS_EFFECTS)
            control.close()

    def _hang_up(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _entered(self) -> _Server:
        if self._server is None:
            raise RuntimeError("Postgres was not started: use it in a with statement")
        return self._server


class _Server(EmbeddedPostgres):
    """A fast server with an additional socket in a private directory, without a password.

    (The nonces of password authentication would differ in every run.) A commit survives a kill.
    """

    @property
    def cluster(self) -> Path:
        return self._cluster

    @property
    def socket(self) -> Path:
        return self._cluster / f".s.PGSQL.{self.port}"

    def _prepare(self) -> None:
        super()._prepare()
        hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (self._cluster / "pg_hba.conf").write_text(hba)

    def _argv(self, port: int) -> list[str]:
        settings = _SETTINGS | {"unix_socket_directories": str(self._cluster)}
        words = [word for item in settings.items() for word in ("-c", "=".join(item))]
        return super()._argv(port) + words


def _directory() -> Path:
    try:
        roomy = shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES_MIN and os.access(_MEMORY, os.W_OK)
    except OSError:
        roomy = False
    if not roomy or not reachable(_MEMORY):
        return temporary_directory("holdfast-simulation-")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-simulation-", dir=_MEMORY))
    if os.geteuid() == 0:
        directory.chmod(0o711)
    return directory
