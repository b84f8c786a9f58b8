"""Refuse requests that a web page of another site makes through its visitor's browser.

A server without keys relies on being reachable from trusted places only. A browser is such a place:
a page can let its own name point to this server (DNS rebinding), or post a form to it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.model.problem_type import ProblemType
from holdfast.runtime import refusals

# Load balancers probe under any name, and the answers tell nothing.
_PROBES = frozenset({"/healthz", "/readyz"})


class HostGuard:
    """ASGI middleware that answers 421 to a foreign Host, and 403 to a foreign Origin.

    A Host is known if it is localhost, one of ``names``, a loopback address, or the address that
    the client connected to. An Origin is known if it is the Host, or one of ``names``. Ports do not
    matter to a Host, since a port may be published as another one.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http" and scope["path"] not in _PROBES:
            refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        kind, detail = refusal
        headers, body = refusals.answer(kind, detail)
        await Response(body, kind.status, headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[ProblemType, str] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) > 1 or (not hosts and scope.get("http_version") != "1.0"):
            return refusals.MALFORMED_REQUEST, "The request must have one header Host."
        if hosts and not self._is_known_host(hosts[0], scope):
            detail = (
                "The header Host names another server. Add the name to HOLDFAST_API_HOSTS if "
                "clients reach this server by it."
            )
            return refusals.MISDIRECTED, detail
        for origin in headers.getlist("origin"):
            authority = _authority(origin)
            own = hosts and authority == hosts[0].lower()
            if not own and _name(authority) not in self._names:
                return refusals.FOREIGN_ORIGIN, "The header Origin names another web site."
        return None

    def _is_known_host(self, host: str, scope: Scope) -> bool:
        name = _name(host)
        if name == "localhost" or name in self._names:
            return True
        server = scope.get("server")
        own = server[0] if server else ""  # the address on which the connection was accepted
        address = _address(name)
        if address is None:
            return bool(name) and name == own
        return address.is_loopback or address == _address(own)


def _authority(origin: str) -> str:
    """Return the host and port of an origin; empty for "null" and anything else."""
    scheme, separator, authority = origin.lower().partition("://")
    return authority if separator and scheme in {"http", "https"} else ""


def _name(authority: str) -> str:
    """Return the host without port and brackets, in lower case; empty if it is invalid."""
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port  # raises if it is no number
    except ValueError:
        return ""
    plain = parts.netloc == authority and "@" not in authority
    return (parts.hostname or "") if plain else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on ``host``."""
    address = _address(host.strip("[]"))
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
