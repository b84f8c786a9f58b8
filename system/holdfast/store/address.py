"""The address of Postgres: a libpq URL, as hosted databases give it to their users.

asyncpg parses most of the URL. This module handles what asyncpg does not know and would send to
Postgres as a setting: options of the client's side such as ``connect_timeout``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from sqlalchemy import URL

from holdfast.errors import Misconfigured
from holdfast.settings import Settings

_HOST = re.compile(
    r"(?P<socket>/.*)|\[(?P<ipv6>[^\]]+)\](:(?P<ipv6_port>.*))?|(?P<host>[^:]+)(:(?P<port>.*))?"
)
# asyncpg connects by its defaults without these, or has no equivalent: dropped unless they demand
# something that it cannot do. The value is the one that must not be dropped silently.
_DROPPED = {
    "channel_binding": "require",
    "client_encoding": None,
    "fallback_application_name": None,
    "gssdelegation": "1",
    "gssencmode": "require",
    "load_balance_hosts": None,
    "require_auth": None,
    "sslcompression": None,
    "sslsni": None,
}
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10}
_KEEPALIVE |= {"keepalives_count": 3, "tcp_user_timeout": 0}

Host = tuple[str, int | None]
"""A name, an address or the directory of a Unix socket, and a port if the URL names one."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP keepalive of a connection, by the names of libpq. Seconds; the last is milliseconds."""

    keepalives: int
    keepalives_idle: int
    keepalives_interval: int
    keepalives_count: int
    tcp_user_timeout: int


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """``dsn`` is for asyncpg; ``hosts`` are to be tried in this order, each for so many seconds."""

    dsn: str
    hosts: tuple[Host | None, ...]
    connect_timeout_seconds: float
    application_name: str | None
    keepalive: Keepalive
    url: URL

    @property
    def connect_seconds_max(self) -> float:
        """Return how long connecting may take: every host may be down but the last."""
        return self.connect_timeout_seconds * len(self.hosts)


def parse(settings: Settings) -> DatabaseAddress:
    """Return the address in ``settings.database_url``.

    ``connect_timeout`` and ``application_name`` in the URL take precedence over the product's own.

    Raises:
        Misconfigured: the URL is invalid, or demands what the driver cannot do.
    """
    try:
        return _parse(settings)
    except ValueError as error:
        raise Misconfigured(f"HOLDFAST_DATABASE_URL: {error}") from error


def _parse(settings: Settings) -> DatabaseAddress:
    parts = urlsplit("postgresql://" + settings.database_url.partition("://")[2])
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    _drop(options)
    if "ssl" in options:  # as SQLAlchemy spells it
        options.setdefault("sslmode", options.pop("ssl"))
    keepalive = Keepalive(
        **{name: _number(options, name, default) for name, default in _KEEPALIVE.items()}
    )
    timeout = _number(options, "connect_timeout", 0) or settings.connect_timeout_seconds
    application_name = options.pop("application_name", None)
    authority, _, hostspec = parts.netloc.rpartition("@")
    hosts = _hosts(hostspec or options.pop("host", ""), options.pop("port", ""))
    if len(hosts) > 1:  # the product writes: a standby is of no use
        options.setdefault("target_session_attrs", "read-write")
    first = hosts[0] or (None, None)
    user = authority.replace("@", "%40") + "@" if authority else ""
    query = f"?{urlencode(options)}" if options else ""
    return DatabaseAddress(
        dsn=f"postgresql://{user}{parts.path}{query}",
        hosts=hosts,
        connect_timeout_seconds=timeout,
        application_name=application_name,
        keepalive=keepalive,
        url=URL.create(
            "postgresql+asyncpg",
            host=first[0],
            port=first[1],
            database=options.get("dbname") or unquote(parts.path.removeprefix("/")) or None,
        ),
    )


def _drop(options: dict[str, str]) -> None:
    for name, demand in _DROPPED.items():
        if (value := options.pop(name, None)) is not None and value == demand:
            raise ValueError(f"{name}={value} is not supported by the driver; remove it")
    if "hostaddr" in options:
        raise ValueError("hostaddr is not supported by the driver; give the address as the host")


def _number(options: dict[str, str], name: str, default: int) -> int:
    value = options.pop(name, str(default))
    if not value.isdecimal():
        raise ValueError(f"{name} must be a whole number")
    return int(value)


def _hosts(hostspec: str, ports: str) -> tuple[Host | None, ...]:
    """Return the hosts of "a:1,b", or of "a,b" with the ports "1,2"; (None,) for the default."""
    if not hostspec:
        return (None,)
    names = hostspec.split(",")
    separate = ports.split(",")
    if len(separate) == 1:
        separate *= len(names)
    if len(separate) != len(names):
        raise ValueError(f"it names {len(names)} hosts, but {len(separate)} ports")
    return tuple(_host(name, port) for name, port in zip(names, separate, strict=True))


def _host(name: str, separate: str) -> Host:
    found = _HOST.fullmatch(name)
    if found is None or not (host := found["socket"] or found["ipv6"] or found["host"]):
        raise ValueError(f"{name!r} is not a host")
    port = found["ipv6_port"] or found["port"] or separate
    if port and not (port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(f"the port of the host {host!r} must be a number from 1 to 65535")
    return unquote(host), int(port) if port else None
