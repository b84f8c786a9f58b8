"""Toxiproxy through toxiproxy-python, made safe to rely on.

What the package leaves out is added here: a timeout on every request, errors for 5xx, a read-back
of every toxic (Toxiproxy takes a misspelt attribute for 0), and removal that cannot be forgotten.
Toxics always have toxicity 1 and no jitter: Toxiproxy ignores its random seed.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import requests
import toxiproxy.proxy
import toxiproxy.server
from toxiproxy.api import APIConsumer, validate_response

Stream = Literal["upstream", "downstream"]
# Attributes of Toxiproxy 2.12 by type; without jitter, which is not deterministic.
ATTRIBUTES: dict[str, frozenset[str]] = {
    "latency": frozenset({"latency"}),
    "bandwidth": frozenset({"rate"}),
    "timeout": frozenset({"timeout"}),
    "reset_peer": frozenset({"timeout"}),
    "slow_close": frozenset({"delay"}),
    "slicer": frozenset({"average_size", "size_variation", "delay"}),
    "limit_data": frozenset({"bytes"}),
}


class ToxiproxyError(Exception):
    """Toxiproxy did not do what was requested, or does not confirm it."""


class _Requests(APIConsumer):  # type: ignore[misc]  # the package has no types
    """The package's HTTP side with a timeout, no environment proxies, and 5xx as an error."""

    timeout_seconds = 5.0

    @classmethod
    def _call(cls, method: str, url: str, **kwargs: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            response = session.request(
                method,
                f"http://{cls.host}:{cls.port}{url}",
                timeout=cls.timeout_seconds,
                **kwargs,
            )
        validate_response(response)
        response.raise_for_status()
        return response

    @classmethod
    def get(cls, url: str, params: Any = None, **kwargs: Any) -> requests.Response:
        return cls._call("GET", url, params=params, **kwargs)

    @classmethod
    def delete(cls, url: str, **kwargs: Any) -> requests.Response:
        return cls._call("DELETE", url, **kwargs)

    @classmethod
    def post(cls, url: str, data: Any = None, json: Any = None, **kwargs: Any) -> requests.Response:
        return cls._call("POST", url, data=data, json=json, **kwargs)


# The package offers no other way to replace its HTTP client than in its modules.
toxiproxy.proxy.APIConsumer = _Requests
toxiproxy.server.APIConsumer = _Requests


@dataclass(frozen=True, slots=True)
class ProxyToxic:
    """One toxic of one edge in one direction, under Toxiproxy's own names and units.

    ``tag`` distinguishes toxics of the same type and stream when faults overlap.
    """

    edge: str
    type: str
    stream: Stream
    attributes: tuple[tuple[str, int], ...]
    tag: str = ""

    @property
    def name(self) -> str:
        # It becomes a part of a URL.
        return "_".join([self.type, self.stream, *re.findall(r"[A-Za-z0-9]+", self.tag)])


@dataclass(frozen=True, slots=True)
class Change:
    """A confirmed change of a proxy; ``action``: add, remove, enable or disable."""

    action: str
    edge: str
    toxic: ProxyToxic | None = None


class Proxies:
    """All proxies of one Toxiproxy server. At most one server per process: the package says so.

    ``journal`` is called after every change that was read back. All methods raise ToxiproxyError,
    or what ``requests`` raises when the server does not answer within five seconds. Several edges
    are changed at the same time: on a loaded machine each request takes tens of milliseconds, and
    what a fault takes to begin and to end adds up when it is repeated.
    """

    def __init__(self, port: int, journal: Callable[[Change], None]) -> None:
        # The HTTP API is reached on loopback wherever the server runs.
        self._server = toxiproxy.server.Toxiproxy()
        self._server.update_api_consumer("127.0.0.1", port)
        self._proxies: dict[str, Any] = {}
        self._journal = journal
        # The API does not support concurrent changes of one proxy.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def create(self, edge: str, upstream_port: int) -> int:
        """Create the proxy of ``edge``; returns the port it listens on."""
        async with self._locks[edge]:
            proxy = await asyncio.to_thread(
                self._server.create, f"127.0.0.1:{upstream_port}", edge, "127.0.0.1:0", True
            )
        self._proxies[edge] = proxy
        return int(proxy.listen.rpartition(":")[2])

    async def adopt(self, edge: str, listen: str, upstream: str) -> None:
        """Take over the proxy of ``edge`` that the server has from its configuration, or make it
        (``host:port`` as the server sees them); raises ToxiproxyError when it is another one.
        """
        async with self._locks[edge]:
            proxy = await asyncio.to_thread(self._server.get_proxy, edge)
            if proxy is None:
                proxy = await asyncio.to_thread(self._server.create, upstream, edge, listen, True)
        found = proxy.listen.rpartition(":")[2], proxy.upstream
        if found != (listen.rpartition(":")[2], upstream):
            raise ToxiproxyError(f"{edge}: should lead to {upstream}, Toxiproxy shows {found}")
        self._proxies[edge] = proxy

    @property
    def edges(self) -> tuple[str, ...]:
        return tuple(self._proxies)

    async def add(self, toxic: ProxyToxic) -> None:
        """Add a toxic and read it back; raises ToxiproxyError if it differs."""
        unknown = {name for name, _ in toxic.attributes} - ATTRIBUTES.get(toxic.type, frozenset())
        if toxic.type not in ATTRIBUTES or unknown:
            raise ToxiproxyError(
                f"no such toxic: {toxic.type} {dict(toxic.attributes)}; known are "
                f"{ {kind: sorted(names) for kind, names in sorted(ATTRIBUTES.items())} }"
            )
        proxy = self._proxy(toxic.edge)
        wanted = dict(toxic.attributes)
        async with self._locks[toxic.edge]:
            await asyncio.to_thread(
                proxy.add_toxic,
                type=toxic.type,
                stream=toxic.stream,
                name=toxic.name,
                toxicity=1.0,
                attributes=wanted,
            )
            standing = (await asyncio.to_thread(proxy.toxics)).get(toxic.name)
        if standing is None or _differs(wanted, standing.attributes) or standing.toxicity != 1:
            found = None if standing is None else standing.attributes
            raise ToxiproxyError(f"{toxic.edge}: asked for {toxic.name} {wanted}, found {found}")
        self._journal(Change("add", toxic.edge, toxic))

    async def remove(self, toxic: ProxyToxic) -> None:
        """Remove a toxic if it exists; held data is delivered immediately."""
        proxy = self._proxy(toxic.edge)
        async with self._locks[toxic.edge]:
            if toxic.name not in await asyncio.to_thread(proxy.toxics):
                return
            await asyncio.to_thread(proxy.destroy_toxic, toxic.name)
            left = await asyncio.to_thread(proxy.toxics)
        if toxic.name in left:
            raise ToxiproxyError(f"{toxic.edge}: {toxic.name} was removed and is still there")
        self._journal(Change("remove", toxic.edge, toxic))

    async def set_enabled(self, edge: str, *, enabled: bool) -> None:
        """Open the edge's port, or close it together with all its connections."""
        proxy = self._proxy(edge)
        async with self._locks[edge]:
            await asyncio.to_thread(proxy.enable if enabled else proxy.disable)
            standing = await _standing(edge)
        if standing["enabled"] is not enabled:
            raise ToxiproxyError(f"{edge}: enabled should be {enabled}, Toxiproxy shows otherwise")
        self._journal(Change("enable" if enabled else "disable", edge))

    async def faults(self, edges: Collection[str]) -> dict[str, list[str]]:
        """Return the toxics that each edge has, by type and stream, and ``down`` if it is."""
        found: dict[str, list[str]] = {}
        for edge, proxy in (await _all_standing()).items():
            if edge in edges:
                toxics = [f"{toxic['type']} {toxic['stream']}" for toxic in proxy["toxics"]]
                found[edge] = toxics if proxy["enabled"] else [*toxics, "down"]
        return found

    async def heal(self, actors: Collection[str]) -> None:
        """Enable every proxy and remove every toxic of the edges of these actors."""
        for edge, standing in (await _all_standing()).items():
            client, _, server = edge.partition("->")
            if client not in actors and server not in actors:
                continue
            for toxic in standing["toxics"]:
                kind, stream = toxic["type"], toxic["stream"]
                tag = toxic["name"].removeprefix(f"{kind}_{stream}")
                attributes = tuple(sorted(toxic["attributes"].items()))
                await self.remove(ProxyToxic(edge, kind, stream, attributes, tag))
            if not standing["enabled"]:
                await self.set_enabled(edge, enabled=True)

    @asynccontextmanager
    async def toxic(self, *toxics: ProxyToxic) -> AsyncIterator[None]:
        """Apply the toxics inside the block; they are always removed after it."""
        try:
            await _together(self.add(each) for each in toxics)
            yield
        finally:
            # Shielded: the removals finish even if the harness is cancelled.
            await asyncio.shield(_together(self.remove(each) for each in toxics))

    @asynccontextmanager
    async def down(self, *edges: str) -> AsyncIterator[None]:
        """Refuse connections on the edges inside the block."""
        try:
            await _together(self.set_enabled(edge, enabled=False) for edge in edges)
            yield
        finally:
            await asyncio.shield(_together(self.set_enabled(edge, enabled=True) for edge in edges))

    def _proxy(self, edge: str) -> Any:
        try:
            return self._proxies[edge]
        except KeyError:
            raise ToxiproxyError(
                f"no edge {edge!r}; known edges: {', '.join(sorted(self._proxies))}"
            ) from None


async def _together(changes: Iterable[Awaitable[None]]) -> None:
    """Make all changes at the same time, each to its end even if another one fails.

    Raises what failed, as a group if it is several.
    """
    ended = await asyncio.gather(*changes, return_exceptions=True)
    failures = [error for error in ended if isinstance(error, Exception)]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ExceptionGroup("changes of edges that may not have been made", failures)


async def _standing(edge: str) -> dict[str, Any]:
    """Return the proxy of an edge as Toxiproxy shows it."""
    found: dict[str, Any] = (await asyncio.to_thread(_Requests.get, f"/proxies/{edge}")).json()
    return found


async def _all_standing() -> dict[str, dict[str, Any]]:
    """Return every proxy as Toxiproxy shows it, by edge."""
    found: dict[str, dict[str, Any]] = (await asyncio.to_thread(_Requests.get, "/proxies")).json()
    return found


def _differs(wanted: Mapping[str, int], found: Mapping[str, int]) -> bool:
    """Whether an attribute differs from what was requested (0 unless requested)."""
    return any(found.get(name) != value for name, value in wanted.items()) or any(
        value for name, value in found.items() if name not in wanted
    )
