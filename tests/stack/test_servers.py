"""Servers as child processes: start, keep data through kill -9, leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from waiting import wait_until

from holdfast.devstack import server_process
from holdfast.devstack.host import free_port, temporary_directory
from holdfast.devstack.reaper import Reaper, process_tree, still_running
from holdfast.devstack.servers import EmbeddedError, EmbeddedPostgres, EmbeddedValkey

LINUX = sys.platform == "linux"


@pytest.fixture
def directory(reaper: Reaper) -> Path:
    directory = temporary_directory("holdfast-test-")
    reaper.own_directory(directory)
    return directory


@pytest.fixture
def own_postgres(directory: Path, reaper: Reaper) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(directory / "own", durable=False, reaper=reaper) as postgres:
        yield postgres


def query(postgres: EmbeddedPostgres, statement: str, database: str = "postgres") -> str:
    with psycopg.connect(postgres.url(database), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        while cursor.nextset():
            pass
        row = cursor.fetchone()
    assert row is not None
    return str(row[0])


def segments_of(data_dir: Path) -> list[str]:
    """Return the ids of the System V segments named by a cluster's postmaster.pid (Linux)."""
    pid_file = data_dir / "cluster" / "postmaster.pid"
    key, _ = pid_file.read_text().splitlines()[6].split()
    table = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    rows = [line.split() for line in table]
    return [row[1] for row in rows if int(row[0]) % 2**32 == int(key)]


@pytest.mark.parametrize("durable", [True, False])
def test_postgres_keeps_a_commit_through_stop_and_kill(
    directory: Path, reaper: Reaper, *, durable: bool
) -> None:
    own_postgres = EmbeddedPostgres(directory / "own", durable=durable, reaper=reaper)
    own_postgres.start()
    query(own_postgres, "CREATE TABLE kept AS SELECT 1 AS n; SELECT 1")
    port = own_postgres.port
    own_postgres.stop()
    assert not own_postgres.is_running
    own_postgres.start()
    query(own_postgres, "INSERT INTO kept VALUES (2) RETURNING n")
    own_postgres.kill()
    assert not own_postgres.is_running
    own_postgres.start()
    assert query(own_postgres, "SELECT sum(n) FROM kept") == "3"
    assert query(own_postgres, "SHOW fsync") == ("on" if durable else "off")
    assert own_postgres.port == port
    own_postgres.stop()


def test_kill_ends_the_process_tree_and_frees_its_memory(own_postgres: EmbeddedPostgres) -> None:
    assert own_postgres.pid is not None
    tree = process_tree([own_postgres.pid])
    assert len(tree) > 3
    assert not LINUX or segments_of(own_postgres.data_dir)
    with psycopg.connect(own_postgres.url("postgres")) as busy:
        os.kill(busy.info.backend_pid, signal.SIGSTOP)  # a backend that cannot notice it
        own_postgres.kill()
    assert not still_running(tree)
    assert not LINUX or not segments_of(own_postgres.data_dir)


def test_postgres_killed_from_outside_starts_again(own_postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(own_postgres.url("postgres")) as orphan:
        pid = own_postgres.pid
        assert pid is not None
        os.kill(orphan.info.backend_pid, signal.SIGSTOP)  # keeps the shared memory attached
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not own_postgres.is_running)
        own_postgres.start()
    assert query(own_postgres, "SELECT 1") == "1"


def test_stale_pid_file_with_a_reused_pid_is_ignored(
    directory: Path, own_postgres: EmbeddedPostgres, postgres: EmbeddedPostgres
) -> None:
    own_postgres.stop()
    pid_file = own_postgres.data_dir / "cluster" / "postmaster.pid"
    pid_file.write_text(f"{postgres.pid}\n{own_postgres.data_dir}/cluster\n")
    own_postgres.start()
    assert query(own_postgres, "SELECT 1") == "1"


def test_cluster_in_use_is_refused_with_the_reason(own_postgres: EmbeddedPostgres) -> None:
    second = EmbeddedPostgres(own_postgres.data_dir)
    with pytest.raises(EmbeddedError, match=f"in use .* {own_postgres.pid}"):
        second.start()
    assert query(own_postgres, "SELECT 1") == "1"


def test_port_in_use_is_reported_with_the_log(
    directory: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "START_ATTEMPTS", 2)
    clash = EmbeddedValkey(directory / "clash", port=valkey.port)
    with pytest.raises(EmbeddedError, match="Address already in use"):
        clash.start()
    assert not clash.is_running


def test_databases_are_copied_from_templates_and_dropped_in_use(
    own_postgres: EmbeddedPostgres,
) -> None:
    own_postgres.create_database("origin")
    query(own_postgres, "CREATE TABLE t AS SELECT 7 AS n; SELECT 1", "origin")
    own_postgres.create_database("copy", template="origin")
    assert query(own_postgres, "SELECT n FROM t", "copy") == "7"
    with psycopg.connect(own_postgres.url("copy")):
        own_postgres.drop_database("copy")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        query(own_postgres, "SELECT 1", "copy")
    with pytest.raises(EmbeddedError, match="createdb origin failed"):
        own_postgres.create_database("origin")


def test_password_is_required(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    with pytest.raises(psycopg.OperationalError, match="no password"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres")
    with (
        redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_postgres_disconnects_dead_clients(postgres: EmbeddedPostgres) -> None:
    assert query(postgres, "SHOW idle_in_transaction_session_timeout") == "1min"
    assert query(postgres, "SHOW client_connection_check_interval") == "5s"
    assert query(postgres, "SHOW max_connections") == "200"


@pytest.mark.parametrize(("appendonly", "kept"), [(True, b"1"), (False, None)])
def test_valkey_keeps_its_data_only_with_appendonly(
    directory: Path, reaper: Reaper, *, appendonly: bool, kept: bytes | None
) -> None:
    server = EmbeddedValkey(directory / "valkey", appendonly=appendonly, reaper=reaper)
    with server, redis.Redis.from_url(server.url()) as client:
        client.set("key", "1")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        server.kill()
        assert not server.is_running
        server.start()
        assert client.get("key") == kept


def test_stop_and_kill_are_idempotent(directory: Path) -> None:
    server = EmbeddedValkey(directory / "valkey")
    server.start()
    server.kill()
    server.kill()
    server.stop()
    server.start()
    with redis.Redis.from_url(server.url()) as client:
        assert client.ping()
    server.stop()
    server.stop()
    assert server.pid is None


def test_free_ports_are_outside_the_ephemeral_range() -> None:
    assert all(15_000 <= free_port() < 30_000 for _ in range(20))


def test_no_port_is_chosen_twice() -> None:
    """With repetitions, two of 500 are equal with a probability of 0.9998."""
    assert len({free_port() for _ in range(500)}) == 500


CREATOR = """
import signal, sys, time
from pathlib import Path
from holdfast.devstack.servers import EmbeddedPostgres
from holdfast.devstack.reaper import Reaper
directory = Path(sys.argv[1])
reaper = Reaper()
reaper.own_directory(directory)
postgres = EmbeddedPostgres(directory / "postgres", durable=False, reaper=reaper)
postgres.start()
deaf = [sys.executable, "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
spawned = [reaper.spawn(deaf), reaper.spawn(["sleep", "600"]), reaper.spawn(["sleep", "600"])]
spawned[2].send_signal(signal.SIGSTOP)
print(postgres.pid, *(process.pid for process in spawned), flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_killed_creator() -> None:
    directory = temporary_directory("holdfast-test-")
    argv = [sys.executable, "-c", CREATOR, str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as creator:
        assert creator.stdout is not None
        pids = {int(word) for word in creator.stdout.readline().split()}
        tree = process_tree(pids)
        assert pids < tree
        segments = segments_of(directory / "postgres") if LINUX else []
        creator.kill()
    wait_until(lambda: not directory.exists())
    assert not still_running(tree)
    if LINUX:
        assert segments
        left = Path("/proc/sysvipc/shm").read_text().split()
        assert not set(segments) & set(left)


def test_killed_helper_is_restarted_with_all_registrations(tmp_path: Path) -> None:
    owned, kept = tmp_path / "owned", tmp_path / "kept"
    owned.mkdir()
    kept.mkdir()
    with Reaper() as reaper:
        process = reaper.spawn(["sleep", "600"])
        gone = reaper.spawn(["true"])
        gone.wait()
        reaper.forget(gone)
        reaper.own_directory(owned)
        reaper.own_directory(kept)
        reaper.disown_directory(kept)
        reaper._helper.kill()
        reaper._helper.wait()
    assert process.wait(5) == -signal.SIGTERM
    assert not owned.exists()
    assert kept.exists()


def test_missing_program_is_named() -> None:
    with Reaper() as reaper, pytest.raises(FileNotFoundError, match="no-such-program"):
        reaper.spawn(["no-such-program"])
