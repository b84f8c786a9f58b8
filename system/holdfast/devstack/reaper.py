"""Nothing outlives its creator: a tiny helper process that ends what a dead creator left behind.

The helper holds the read end of a pipe whose write end only its creator has open. When the
creator ends, however it ends, the pipe reads EOF; then the helper ends the registered processes
with all they started, and removes the registered directories.
It is this very file, run as a script, so it must import nothing but the standard library.

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
# A child becomes its program only when a line comes through its stdin, which is sent once it is
# registered: there is no moment in which the program runs and is unknown. If its creator dies
# before that, the line never comes and the child ends by itself.
WAIT_THEN_EXEC = 'read -r go && exec "$0" "$@" </dev/null'


class ProcessInfo(NamedTuple):
    """One row of the machine's process table."""

    pid: int
    parent: int
    group: int
    name: str
    ended: bool
    """A zombie: it runs no more and holds nothing, it only waits to be reaped."""


def process_table() -> list[ProcessInfo]:
    """All processes of this machine, from /proc or else from ``ps``."""
    if not Path("/proc/self/stat").exists():
        return _process_table_by_ps()
    table = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 (thousands of Path objects for nothing)
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
    """Those of ``roots``, their groups and all their descendants that still run."""
    table = process_table()
    found = set(roots)
    found |= {row.pid for row in table if row.group in found}
    size = -1
    while size != len(found):
        size = len(found)
        found |= {row.pid for row in table if row.parent in found}
    return {row.pid for row in table if row.pid in found and not row.ended} - {os.getpid()}


def still_running(pids: set[int]) -> set[int]:
    """Those of ``pids`` that have not ended."""
    return {row.pid for row in process_table() if row.pid in pids and not row.ended}


def wait_until_ended(pids: set[int], seconds: float) -> set[int]:
    """Wait for all of ``pids`` to end, at most ``seconds``; returns those that still run."""
    deadline = time.monotonic() + seconds
    while (left := still_running(pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process; one that has ended meanwhile is fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_processes(roots: Mapping[int, int]) -> None:
    """End process trees: the signal named for each root, 3 s later SIGKILL for what is left.

    Stopped processes are continued, so that they can hear the signal.
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
    """Remove the System V segment that a killed Postgres left; its ``postmaster.pid`` names it."""
    try:
        key, segment = (int(word) for word in pid_file.read_text().splitlines()[6].split())
    except (OSError, IndexError, ValueError):
        return  # no such file, or Postgres had not come so far: then there is no segment
    libc = ctypes.CDLL(None, use_errno=True)
    key_as_c = ctypes.c_int(key)
    if libc.shmget(key_as_c, ctypes.c_size_t(0), 0) == segment:  # else the id is another's by now
        libc.shmctl(segment, 0, None)  # 0 is IPC_RMID


class Reaper:
    """Starts processes and owns directories that must not outlive this process.

    A context manager: leaving it ends what is still registered and removes owned directories.
    """

    def __init__(self, *, hold: IO[bytes] | None = None) -> None:
        """``hold``: a file, for example a locked one, kept open until everything is cleaned up."""
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
        """Start ``argv`` in a session of its own; it is registered before it runs.

        Its stdin is empty. Call `forget` once it was waited for: its pid may then be reused.

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
        self._tell(f"pid {process.pid} {int(end_with)}")
        gate, process.stdin = process.stdin, None
        if gate is not None:
            with contextlib.suppress(BrokenPipeError), gate:
                gate.write(b"go\n")
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """The process has ended and was waited for: it must never be signalled again."""
        if self._pids.pop(process.pid, None) is not None and not self._closed:
            self._tell(f"gone {process.pid}")

    def own_directory(self, path: Path) -> None:
        """Remove this directory when this process has ended."""
        self._remember(f"dir {path.absolute()}")

    def disown_directory(self, path: Path) -> None:
        """Keep this directory after all."""
        self._lines.pop(f"dir {path.absolute()}", None)
        self._tell(f"undir {path.absolute()}")

    def own_shared_memory(self, pid_file: Path) -> None:
        """Remove the segment of this ``postmaster.pid`` if Postgres could not do it itself."""
        self._remember(f"shm {pid_file.absolute()}")

    def ensure_alive(self) -> None:
        """Restart the helper if it was killed."""
        if self._closed:
            raise RuntimeError("this reaper is closed: it cannot start processes any more")
        if self._helper.poll() is None:
            return
        with contextlib.suppress(OSError):
            _stdin(self._helper).close()
        self._helper = self._start_helper()
        for line in [*self._lines, *(f"pid {pid} {end}" for pid, end in self._pids.items())]:
            self._tell(line)

    def close(self) -> None:
        """End what is still registered, remove the directories, wait until that is done."""
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

    def _remember(self, line: str) -> None:
        if "\n" in line:
            raise ValueError(f"a path with a line break cannot be guarded: {line!r}")
        self.ensure_alive()
        self._lines[line] = None
        self._tell(line)

    def _tell(self, line: str) -> None:
        # A helper that was killed is started again, and told everything, by ensure_alive.
        with contextlib.suppress(BrokenPipeError):
            os.write(_stdin(self._helper).fileno(), os.fsencode(line) + b"\n")


def _stdin(helper: subprocess.Popen[bytes]) -> IO[bytes]:
    if helper.stdin is None:
        raise RuntimeError("the reaper's helper process has no pipe")
    return helper.stdin


def _guard(lines: Iterable[bytes]) -> None:
    """The helper: listen until the creator has ended, then clean up after it."""
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
    _guard(sys.stdin.buffer)
