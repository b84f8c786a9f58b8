"""Clean up after a process, even after a SIGKILL, by means of a small helper process.

The helper holds the read end of a pipe whose write end only its creator has open. When the creator
ends for any reason, the helper reads EOF, ends the registered process trees and removes the
registered directories. It runs this file as a script, which may therefore import only the standard
library.

Lines on the pipe: ``pid N SIGNAL``, ``gone N``, ``dir PATH``, ``undir PATH``, ``shm PIDFILE``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

TERMINATE_SECONDS = 3.0
KILL_SECONDS = 5.0
# A child executes its program only after it reads a line from stdin, which is sent once the child
# is registered, so that no program ever runs unregistered. If the creator dies earlier, the child
# reads EOF and exits.
WAIT_THEN_EXEC = 'read -r go && exec "$0" "$@" </dev/null'


class ProcessInfo(NamedTuple):
    """One row of the process table."""

    pid: int
    parent: int
    group: int
    name: str
    ended: bool
    """A zombie: it has exited and only waits to be reaped."""


def process_table() -> list[ProcessInfo]:
    """Return all processes of this machine, from /proc or else from ``ps``."""
    if not Path("/proc/self/stat").exists():
        return _process_table_by_ps()
    table = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 (avoids thousands of Path objects)
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
                head, _, tail = stat.rpartition(")")
                state, parent, group = tail.split()[:3]
                name = head.partition("(")[2]
                ended = state in "ZX"
                table.append(ProcessInfo(int(entry), int(parent), int(group), name, ended))
    return table


def _process_table_by_ps() -> list[ProcessInfo]:
    argv = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,comm="]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    table = []
    for line in output.splitlines():
        pid, parent, group, state, *command = line.split(maxsplit=4)
        name = Path(command[0]).name if command else ""
        table.append(ProcessInfo(int(pid), int(parent), int(group), name, state.startswith("Z")))
    return table


def process_tree(roots: Iterable[int]) -> set[int]:
    """Return the running processes among ``roots``, their groups and their descendants."""
    table = process_table()
    found = set(roots)
    found |= {row.pid for row in table if row.group in found}
    size = -1
    while size != len(found):
        size = len(found)
        found |= {row.pid for row in table if row.parent in found}
    return {row.pid for row in table if row.pid in found and not row.ended} - {os.getpid()}


def still_running(pids: set[int]) -> set[int]:
    """Return the processes among ``pids`` that have not ended."""
    return {row.pid for row in process_table() if row.pid in pids and not row.ended}


def wait_until_ended(pids: set[int], seconds: float) -> set[int]:
    """Wait up to ``seconds`` until all of ``pids`` have ended; return those still running."""
    deadline = time.monotonic() + seconds
    while (left := still_running(pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process; ignore those that have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_processes(roots: Mapping[int, int]) -> None:
    """End process trees: send each root its signal, and SIGKILL what is left after 3 s.

    Stopped processes are continued, so that they can handle the signal.
    """
    pids = process_tree(roots)
    for root, number in roots.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(root, number)
    send_signal(pids, signal.SIGCONT)
    if left := wait_until_ended(pids, TERMINATE_SECONDS):
        left |= process_tree(left | set(roots))
        send_signal(left, signal.SIGKILL)
        wait_until_ended(left, KILL_SECONDS)


def remove_shared_memory(pid_file: Path) -> None:
    """Remove the System V segment that a killed Postgres left, named by its ``postmaster.pid``."""
    try:
        key, segment = (int(word) for word in pid_file.read_text().splitlines()[6].split())
    except (OSError, IndexError, ValueError):
        return  # Postgres had not yet created a segment
    libc = ctypes.CDLL(None, use_errno=True)
    key_as_c = ctypes.c_int(key)
    if libc.shmget(key_as_c, ctypes.c_size_t(0), 0) == segment:  # otherwise the id has been reused
        libc.shmctl(segment, 0, None)  # 0 is IPC_RMID


class Reaper:
    """Starts processes and owns directories that must not outlive this process.

    A context manager: leaving it ends registered processes and removes owned directories.
    """

    def __init__(self, *, hold: IO[bytes] | None = None) -> None:
        """``hold``: a file, such as a locked one, that stays open until the cleanup is done."""
        self._hold = hold
        self._pids: dict[int, int] = {}
        self._lines: dict[str, None] = {}
        self._closed = False
        self._helper = self._start_helper()

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        end_with: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        group: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` in a new session; it is registered before it runs.

        Its stdin is empty. Call `forget` after waiting for it: its pid may then be reused.

        Raises:
            FileNotFoundError: there is no such program.
        """
        program = shutil.which(argv[0])
        if program is None:
            raise FileNotFoundError(f"cannot start {argv[0]}: no such program, or not executable")
        self.ensure_alive()
        process = subprocess.Popen(
            ["/bin/sh", "-c", WAIT_THEN_EXEC, program, *(str(word) for word in argv[1:])],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
        self._pids[process.pid] = int(end_with)
        self._send(f"pid {process.pid} {int(end_with)}")
        gate, process.stdin = process.stdin, None
        if gate is not None:
            with contextlib.suppress(BrokenPipeError), gate:
                gate.write(b"go\n")
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """Unregister a process that has ended and was waited for, so that it is never signalled."""
        if self._pids.pop(process.pid, None) is not None and not self._closed:
            self._send(f"gone {process.pid}")

    def own_directory(self, path: Path) -> None:
        """Remove this directory after this process has ended."""
        self._register(f"dir {path.absolute()}")

    def disown_directory(self, path: Path) -> None:
        """Keep a directory that was owned."""
        self._lines.pop(f"dir {path.absolute()}", None)
        self._send(f"undir {path.absolute()}")

    def own_shared_memory(self, pid_file: Path) -> None:
        """Remove the segment named by this ``postmaster.pid`` if Postgres does not."""
        self._register(f"shm {pid_file.absolute()}")

    def ensure_alive(self) -> None:
        """Restart the helper if it was killed."""
        if self._closed:
            raise RuntimeError("this reaper is closed and cannot start processes")
        if self._helper.poll() is None:
            return
        with contextlib.suppress(OSError):
            _stdin(self._helper).close()
        self._helper = self._start_helper()
        for line in [*self._lines, *(f"pid {pid} {end}" for pid, end in self._pids.items())]:
            self._send(line)

    def close(self) -> None:
        """End registered processes, remove owned directories, and wait until that is done."""
        if not self._closed:
            self.ensure_alive()
            self._closed = True
            _stdin(self._helper).close()
            self._helper.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start_helper(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=() if self._hold is None else (self._hold.fileno(),),
        )

    def _register(self, line: str) -> None:
        if "\n" in line:
            raise ValueError(f"a path with a line break cannot be registered: {line!r}")
        self.ensure_alive()
        self._lines[line] = None
        self._send(line)

    def _send(self, line: str) -> None:
        # ensure_alive restarts a killed helper and sends it all registrations.
        with contextlib.suppress(BrokenPipeError):
            os.write(_stdin(self._helper).fileno(), os.fsencode(line) + b"\n")


def _stdin(helper: subprocess.Popen[bytes]) -> IO[bytes]:
    if helper.stdin is None:
        raise RuntimeError("the reaper's helper process has no pipe")
    return helper.stdin


def _run_helper(lines: Iterable[bytes]) -> None:
    """Read registrations until the creator has ended, then clean up."""
    pids: dict[int, int] = {}
    directories: dict[str, None] = {}
    pid_files: dict[str, None] = {}
    for line in lines:
        verb, _, rest = os.fsdecode(line).rstrip("\n").partition(" ")
        if verb == "pid":
            pid, _, number = rest.partition(" ")
            pids[int(pid)] = int(number)
        elif verb == "gone":
            pids.pop(int(rest), None)
        elif verb == "dir":
            directories[rest] = None
        elif verb == "undir":
            directories.pop(rest, None)
        elif verb == "shm":
            pid_files[rest] = None
    end_processes(pids)
    for pid_file in pid_files:
        remove_shared_memory(Path(pid_file))
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _run_helper(sys.stdin.buffer)
