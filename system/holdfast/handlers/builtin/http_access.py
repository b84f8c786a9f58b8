"""Access control of http_request: an allowlist of hosts, a denylist of addresses.

Addresses are checked in the network backend of the connection pool, after name resolution, so the
checked address is the one connected to. DNS rebinding is therefore ineffective, and TLS still
verifies the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpcore
import httpx

from holdfast.errors import Misconfigured

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:.]*:[0-9a-f:.]*")  # or an address of IPv6
# Cloud metadata services outside the link-local ranges.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
# Networks of IPv6 that translate to the IPv4 address in the last 32 bits: NAT64 and SIIT.
_TRANSLATED = tuple(
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")
)
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")


class Refused(Exception):
    """The destination is not allowed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of ``http_allowed_hosts``; ``port`` None allows every port."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Rule:
        """Parse "host", "host:port", "*.suffix", "*.suffix:port" or an address, [IPv6] in brackets.

        Raises:
            Misconfigured: the entry has another form.
        """
        wildcard = entry.startswith("*.")
        try:
            url = httpx.URL(f"any://{entry[2:] if wildcard else entry}")
            host = _canonical(url)
        except (httpx.InvalidURL, UnicodeError):
            host = ""
            url = httpx.URL()
        extra = url.path not in {"", "/"} or url.query or url.fragment or url.userinfo
        possible = _HOST.fullmatch(host) and (url.port is None or 0 < url.port < 65536)
        if extra or not possible:
            raise Misconfigured(
                f"HOLDFAST_HTTP_ALLOWED_HOSTS has {entry!r}: write host, host:port or *.suffix, "
                "without scheme and path"
            )
        return cls(f".{host}" if wildcard else host, url.port)

    def allows(self, host: str, port: int) -> bool:
        """Whether the rule covers the host; "*.example.com" does not cover example.com itself."""
        name_fits = host.endswith(self.host) if self.host.startswith(".") else host == self.host
        return name_fits and self.port in {None, port}


class AllowedHosts:
    """The parsed setting ``http_allowed_hosts``."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._rules = tuple(Rule.parse(entry) for entry in entries)

    def check(self, url: httpx.URL) -> None:
        """Check that a URL is http or https, without credentials, to an allowed host.

        Raises:
            Refused: it is not.
        """
        if url.scheme not in _PORTS:
            raise Refused(f"the scheme {url.scheme!r} is refused: only http and https are allowed")
        if url.userinfo:
            raise Refused("a URL with a user name or password is refused: use a header")
        host = _canonical(url)
        port = _PORTS[url.scheme] if url.port is None else url.port
        if not 0 < port < 65536:
            raise Refused(f"the port {port} is invalid: it must be 1 to 65535")
        if not any(rule.allows(host, port) for rule in self._rules):
            raise Refused(
                f"the host {host!r} (port {port}) is not allowed: an operator can add it to "
                "HOLDFAST_HTTP_ALLOWED_HOSTS"
            )


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a name once, checks every address and connects to a checked one."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open a connection for the pool to the first reachable address of ``host``.

        Raises:
            Refused: the name is invalid, or has an address that is never allowed.
            httpcore.ConnectError, httpcore.ConnectTimeout: no address could be reached.
        """
        error: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await _checked_addresses(host, port):
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                error = failure
        raise error

    async def sleep(self, seconds: float) -> None:
        """Sleep between the pool's own retries."""
        await asyncio.sleep(seconds)


def refusal(address: Ip) -> str | None:
    """Return why an address is never allowed, else None; IPv4 embedded in IPv6 is unwrapped."""
    address = _embedded_ipv4(address) or address
    if address.is_unspecified or address in _THIS_NETWORK:
        return "unspecified"
    if address in _METADATA:
        return "a cloud metadata service"
    if address.is_link_local:
        return "link-local, as are cloud metadata services"
    if address.is_multicast:
        return "multicast"
    if address.version == 4 and address.is_reserved:
        return "reserved"
    return None


async def _checked_addresses(host: str, port: int) -> Sequence[str]:
    try:
        addresses = [str(ipaddress.ip_address(host))]
    except ValueError:
        addresses = await _resolve(host, port)
    for address in addresses:
        reason = refusal(ipaddress.ip_address(address))
        if reason is not None:
            raise Refused(f"{host!r} resolves to {address}, which is {reason}: always refused")
    return addresses


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise Refused(f"{host!r} is not the name of a host: {error}") from error
    except OSError as error:
        raise httpcore.ConnectError(f"{host!r} cannot be resolved: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _embedded_ipv4(address: Ip) -> ipaddress.IPv4Address | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if any(address in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _IPV4_COMPATIBLE and int(address) > 1:
        return ipaddress.IPv4Address(int(address))
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def _canonical(url: httpx.URL) -> str:
    """Return the host in lower-case ASCII, without a trailing dot."""
    return url.raw_host.decode("ascii").lower().rstrip(".")
