"""Run a server as a child process: start, wait until it answers, stop, kill, restart."""

from __future__ import annotations

import abc
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar, Self

from holdfast.devstack.host import EmbeddedError, free_port, reachable, server_user
from holdfast.devstack.reaper import (
    Reaper,
    process_tree,
    send_signal,
    wait_until_ended,
)

START_SECONDS = 60.0
STOP_SECONDS = 30.0
START_ATTEMPTS = 20


class ServerProcess(abc.ABC):
    """A server as a child process; the base of Postgres, Valkey and Jaeger.

    ``data_dir`` holds its data, log and password; data survives stop and kill. If this process is
    root, the server runs as the user nobody, unless ``drops_privileges`` is False. With ``port`` 0
    the first start picks a free port, which is then kept. The server never outlives this process:
    ``reaper``, or else a private one, ends it.
    A context manager: entering starts the server, leaving stops it.
    """

    name: ClassVar[str]
    end_with: ClassVar[signal.Signals] = signal.SIGTERM
    drops_privileges: ClassVar[bool] = True

    def __init__(self, data_dir: Path, port: int = 0, *, reaper: Reaper | None = None) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.port = port
        self._keep_port = port != 0
        self._reaper = reaper
        self._own_reaper: Reaper | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._user = server_user() if self.drops_privileges else None
        self._password = ""

    @property
    def log_file(self) -> Path:
        """The output of the server, across all starts."""
        return self.data_dir / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return self._process.pid if self._process and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether the server's main process is running."""
        if self._process is None:
            return False
        if self._process.poll() is not None:
            self._reaped(self._process)
            return False
        return True

    def start(self) -> None:
        """Start and wait until it answers, also after a kill or on existing data.

        Raises:
            EmbeddedError: it did not come up.
        """
        if self.is_running:
            raise EmbeddedError(f"{self.name} is already running (port {self.port})")
        if self._reaper is None:
            self._reaper = self._own_reaper = Reaper()
        try:
            self._start()
        except BaseException:
            self._close_own_reaper()
            raise

    def stop(self) -> None:
        """Shut down cleanly: clients are disconnected, data is safe. Idempotent."""
        process = self._process
        if process is not None and self.is_running:
            process.send_signal(self.end_with)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._reaped(process)
        self._close_own_reaper()

    def kill(self) -> None:
        """Send SIGKILL to the process tree and wait until all of it has ended. Idempotent."""
        process = self._process
        if process is None or not self.is_running:
            return
        tree = self.pause()
        send_signal(tree, signal.SIGKILL)
        process.wait()
        left = wait_until_ended(tree, STOP_SECONDS)
        self._reaped(process)
        self._close_own_reaper()
        if left:
            raise EmbeddedError(f"{self.name}: processes {sorted(left)} survived SIGKILL")

    def pause(self) -> set[int]:
        """Send SIGSTOP to the process tree and return its process ids; ``resume`` continues it."""
        process = self._process
        if process is None or not self.is_running:
            raise EmbeddedError(f"{self.name} is not running: nothing to pause")
        process.send_signal(signal.SIGSTOP)  # it must not fork while its children are listed
        tree = process_tree([process.pid]) | self._strays()
        send_signal(tree, signal.SIGSTOP)
        return tree

    def resume(self) -> None:
        """Send SIGCONT to the process tree."""
        if self._process is not None and self.is_running:
            send_signal(process_tree([self._process.pid]) | self._strays(), signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Prepare the data directory, whatever state the last run left it in."""

    @abc.abstractmethod
    def _argv(self, port: int) -> list[str]: ...

    @abc.abstractmethod
    def _answers(self, port: int) -> bool: ...

    def _strays(self) -> set[int]:
        """Return processes of this server outside the tree of its main process."""
        return set()

    def _start(self) -> None:
        self._make_directories()
        self._password = self._read_or_make_password()
        self._prepare()
        for _ in range(START_ATTEMPTS):
            port = self.port if self._keep_port else free_port()
            if self._launch(port):
                self._keep_port = True
                return
            time.sleep(0.25)
        raise self._failed(f"did not start in {START_ATTEMPTS} attempts")

    def _launch(self, port: int) -> bool:
        """Try to start once; return False if its port or shared memory is still in use."""
        log_size = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._process = self._spawn(self._argv(port))
        self.port = port
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.is_running:
                output = self.log_file.read_bytes()[log_size:]
                if b"ddress already in use" in output or b"pre-existing shared memory" in output:
                    return False
                raise self._failed("exited while starting")
            if self._answers(port):
                return True
            time.sleep(0.02)
        self.kill()
        raise self._failed(f"did not answer within {START_SECONDS:.0f} s")

    def _spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        uid, gid = self._user or (None, None)
        with self.log_file.open("ab") as log:
            return self._active_reaper().spawn(
                argv,
                env=self._environment(),
                cwd=Path("/"),
                stdout=log,
                stderr=log,
                end_with=self.end_with,
                user=uid,
                group=gid,
            )

    def _active_reaper(self) -> Reaper:
        if self._reaper is None:
            raise EmbeddedError(f"{self.name} was not started by start()")
        return self._reaper

    def _close_own_reaper(self) -> None:
        if self._own_reaper is not None:
            self._own_reaper.close()
            self._reaper = self._own_reaper = None

    def _environment(self) -> dict[str, str]:
        # Minimal: the caller's PGDATA, PGPORT and similar must not reach the server.
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

    def _make_directories(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self._user is not None and not reachable(self.data_dir):
            raise EmbeddedError(
                f"if run as root, {self.name} runs as the user nobody, which cannot access "
                f"{self.data_dir}: choose a data directory that every user can reach"
            )

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, *self._user)

    def _write_private(self, path: Path, text: str) -> None:
        """Write a file atomically that only the server and root can read."""
        scratch = path.with_name(f"{path.name}.new")
        scratch.unlink(missing_ok=True)
        scratch.touch(mode=0o600)
        scratch.write_text(text)
        self._own(scratch)
        scratch.rename(path)

    def _read_or_make_password(self) -> str:
        """Return the password, which is needed since every local user can reach loopback."""
        path = self.data_dir / f"{self.name}.password"
        if not path.exists():
            self._write_private(path, secrets.token_hex(16))
        return path.read_text()

    def _reaped(self, process: subprocess.Popen[bytes]) -> None:
        if self._reaper is not None:  # else it is closed, and tracks nothing
            self._reaper.forget(process)
        self._process = None

    def _failed(self, what: str) -> EmbeddedError:
        tail = self.log_file.read_text(errors="replace").splitlines()[-15:]
        shown = "\n".join(f"  {line}" for line in tail) or "  (empty)"
        return EmbeddedError(f"{self.name} {what}; the end of {self.log_file}:\n{shown}")
