"""A bounded pool of connections to Postgres that notices connections which are dead or shared.

- **Dead.** A network may drop established connections silently (a NAT that forgets them, a firewall
  that restarts). The first statement without an answer casts doubt on every connection that has
  not answered since: none of them is used again. One that was idle for long answers a query first.
- **Shared.** A pooler such as PgBouncer may give every transaction another server connection, on
  which the statements prepared before do not exist. Behind one, each statement is sent as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
from sqlalchemy import AsyncAdaptedQueuePool, ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from holdfast.errors import Misconfigured
from holdfast.settings import Settings
from holdfast.store import address
from holdfast.store.address import DatabaseAddress, Host, Keepalive

_HEALTH = "holdfast_pool_health"
_ANSWERED_AT = "holdfast_answered_at"
_IDLE_SECONDS = 30.0  # a connection idle for longer is probed before its next use
_PROBE_SECONDS = 2.0
_TERMINATE = b"X\x00\x00\x00\x04"
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# asyncpg has codecs for all built-in types except their arrays, which it looks up in the catalogue
# on each new connection: four round trips and 5 ms of server CPU, for all connections at the same
# time after an outage; the lookup also leaves ``jit`` off in the session. These are the rows that
# the query would return; the OIDs are the same in every Postgres.
_ARRAY_TYPES = tuple(
    {
        "oid": oid, "ns": "pg_catalog", "name": f"_{element}", "kind": b"b", "basetype": None,
        "elemtype": element_oid, "elemdelim": ",", "range_subtype": None, "attrtypoids": None,
        "attrnames": None,
    }
    for oid, element, element_oid in (
        (1001, "bytea", 17), (1007, "int4", 23), (1022, "float8", 701),
        (1185, "timestamptz", 1184), (2951, "uuid", 2950),
    )
)  # fmt: skip


class _Connection(asyncpg.Connection):
    """A connection whose close does not wait for the server, which may never answer."""

    async def close(self, *, timeout: float | None = None) -> None:
        """Send Terminate and close the socket."""
        # Not a public API: an asyncpg without this attribute just closes it.
        transport = getattr(self, "_transport", None)
        if transport is not None and not self.is_closed():
            transport.write(_TERMINATE)
        self.terminate()


@dataclass(slots=True, eq=False)
class _PoolHealth:
    """Since when the connections are in doubt (the event loop's clock), and whether shared."""

    doubted_at: float = -math.inf
    shared: bool = False


class _Connector:
    """Opens the connections of one engine."""

    def __init__(self, where: DatabaseAddress, application_name: str, health: _PoolHealth) -> None:
        self._where = where
        self._health = health
        name = where.application_name or application_name
        self._arguments: dict[str, Any] = {
            "dsn": where.dsn,
            "timeout": where.connect_timeout_seconds,
            "server_settings": {"application_name": name},
        }

    async def connect(self) -> asyncpg.Connection:
        """Connect to the first host that answers.

        Raises:
            Misconfigured: the driver refuses an option of the address.
        """
        *others, last = self._where.hosts
        for host in others:
            with contextlib.suppress(OSError, *DRIVER_ERRORS):
                return await self._connect(host)
        return await self._connect(last)

    async def _connect(self, host: Host | None) -> asyncpg.Connection:
        if not self._health.shared:
            connection = await self._open(host)
            try:
                if await self._is_direct(connection):
                    return connection
            except BaseException:
                connection.terminate()
                raise
            self._health.shared = True
            connection.terminate()
        # Without its cache asyncpg sends Parse, Bind and Execute of a statement together, under no
        # name, so that they reach the same server connection.
        return await self._open(host, statement_cache_size=0)

    async def _open(self, host: Host | None, **options: Any) -> asyncpg.Connection:
        if host is not None:
            options |= {"host": host[0], "port": host[1]}
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                connection_class=_Connection, **self._arguments, **options
            )
        except ValueError as error:  # among them asyncpg's ClientConfigurationError
            reason = str(error).partition("\n")[0]
            raise Misconfigured(f"HOLDFAST_DATABASE_URL: {reason}") from error
        _keep_alive(connection, self._where.keepalive)
        return connection

    async def _is_direct(self, connection: asyncpg.Connection) -> bool:
        """Return whether the backend is the one that the server announced: a pooler invents it."""
        pid = connection.get_server_pid()
        status = await connection.execute(
            f"SELECT WHERE pg_backend_pid() = {pid}", timeout=self._where.connect_timeout_seconds
        )
        return status == "SELECT 1"


def create_engine(
    settings: Settings, *, connections: int, application_name: str, autocommit: bool
) -> AsyncEngine:
    """Create an engine with at most ``connections`` connections, opened on demand.

    Sessions are never configured with SET, which PgBouncer would not preserve: configure
    server-side timeouts on the role or the database.

    Raises:
        Misconfigured: the address of Postgres is invalid.
    """
    where = address.parse(settings)
    health = _PoolHealth()
    engine = create_async_engine(
        where.url,
        async_creator=_Connector(where, application_name, health).connect,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        pool_size=connections,
        max_overflow=0,
        json_deserializer=orjson.loads,
        pool_timeout=settings.connect_timeout_seconds,
        execution_options={_HEALTH: health},
    )

    def opened(connection: Any, record: Any) -> None:
        _register_arrays(connection)
        record.info[_ANSWERED_AT] = asyncio.get_running_loop().time()

    def returned(connection: Any, record: Any) -> None:
        if connection is not None:
            record.info[_ANSWERED_AT] = asyncio.get_running_loop().time()

    event.listen(engine.sync_engine, "connect", opened)
    event.listen(engine.sync_engine, "checkin", returned)
    event.listen(engine.sync_engine, "handle_error", _terminate_cancelled)
    return engine


def connections_used(engine: AsyncEngine) -> int:
    """Return the number of pooled connections in use."""
    pool = engine.pool
    return pool.checkedout() if isinstance(pool, AsyncAdaptedQueuePool) else 0


def is_pooler_between(engine: AsyncEngine) -> bool:
    """Return whether a connection pooler was found between this engine and Postgres."""
    return _health(engine).shared


async def checkout(engine: AsyncEngine) -> AsyncConnection:
    """Check out a connection that may be expected to answer; discard those that may not."""
    while True:
        connection = await engine.connect()
        try:
            if await is_usable(connection, engine):
                return connection
        except BaseException:
            await discard(connection)
            raise
        await discard(connection)


async def discard(connection: AsyncConnection) -> None:
    """Terminate the connection: its pending reply must not reach the next user of the pool."""
    if not connection.closed and not connection.invalidated:
        raw = await connection.get_raw_connection()
        if raw.driver_connection is not None:
            raw.driver_connection.terminate()  # SQLAlchemy would try a graceful close
        await connection.invalidate()
    await connection.close()


def doubt(engine: AsyncEngine, sent_at: float) -> None:
    """Doubt every connection that has not answered since ``sent_at``, by the event loop's clock.

    Call it when a statement that was sent then has had no answer: whatever swallowed it may swallow
    the next one too.
    """
    health = _health(engine)
    health.doubted_at = max(health.doubted_at, sent_at)


def _health(engine: AsyncEngine) -> _PoolHealth:
    health: _PoolHealth = engine.get_execution_options()[_HEALTH]
    return health


def answered(connection: AsyncConnection) -> None:
    """Note that the connection has just answered, as its return to the pool does."""
    pooled = connection.sync_connection
    if pooled is not None:
        pooled.info[_ANSWERED_AT] = asyncio.get_running_loop().time()


async def is_usable(connection: AsyncConnection, engine: AsyncEngine) -> bool:
    """Return whether a connection of the engine may be expected to answer."""
    health, pooled = _health(engine), connection.sync_connection
    raw = pooled.connection.driver_connection if pooled is not None else None
    if pooled is None or raw is None or raw.is_closed():  # closed while it was in the pool
        return False
    answered_at: float = pooled.info[_ANSWERED_AT]
    if answered_at < health.doubted_at:
        return False
    now = asyncio.get_running_loop().time()
    if now - answered_at < _IDLE_SECONDS:
        return True
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            await raw.execute("SELECT")
    except TimeoutError:
        health.doubted_at = now
        return False
    except (OSError, *DRIVER_ERRORS):
        return False
    return True


def _terminate_cancelled(context: ExceptionContext) -> None:
    """Terminate the connection of a cancelled call, which SQLAlchemy would close gracefully.

    That takes two seconds if the server does not answer, as it probably did not.
    """
    connection = context.connection
    if isinstance(context.original_exception, Exception) or connection is None:
        return
    if not connection.closed and not connection.invalidated:
        raw = connection.connection.driver_connection
        if raw is not None:
            raw.terminate()


def _register_arrays(connection: Any) -> None:
    """Register the array types with a new asyncpg connection (as SQLAlchemy adapts it)."""
    # Not a public API: an asyncpg without this attribute queries the catalogue.
    with contextlib.suppress(AttributeError):
        protocol = connection.driver_connection._protocol  # noqa: SLF001
        protocol.get_settings().register_data_types(_ARRAY_TYPES)


def _keep_alive(connection: asyncpg.Connection, options: Keepalive) -> None:
    """Keep an idle connection known to the network, and notice when its peer is gone."""
    # Not a public API: an asyncpg without this attribute has the defaults of the system.
    transport = getattr(connection, "_transport", None)
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, options.keepalives)
    for name, value in (
        ("TCP_KEEPIDLE", options.keepalives_idle),
        ("TCP_KEEPINTVL", options.keepalives_interval),
        ("TCP_KEEPCNT", options.keepalives_count),
        ("TCP_USER_TIMEOUT", options.tcp_user_timeout),
    ):
        if value and hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
