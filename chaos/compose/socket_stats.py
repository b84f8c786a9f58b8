"""Serve socket statistics of all proxies from inside Toxiproxy's network.

``python -m chaos.compose.socket_stats --port P`` in a container that shares that network.
Containers have networks of their own, whose sockets the harness cannot see; here they are seen from
the other end.

- ``GET /bytes?port=N&port=M``: by port and client, what was sent and received so far;
- ``GET /probe?edge=E&port=N``: seconds until the proxy answered a request of this server (which is
  never counted), or null when it closed; responds when that is known;
- ``GET /ready?role=R``: the status of that role's /readyz, bypassing all proxies; 0: no answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping
from typing import Annotated

import httpx
import typer
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chaos.compose.edges import HTTP_PORT
from chaos.live.socket_stats import Sockets, probe_edge, served_bytes

# Plain HTTP only; loading certificates for each request would cost 10 ms of CPU.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# Limit of one request; a probe has none, because it waits for the fault's end.
_TIMEOUT_SECONDS = 5.0
_READY_SECONDS = 2.0
_LOOK_SECONDS = 0.05


def create_socket_stats() -> Starlette:
    """Create the HTTP application."""
    own: set[int] = set()

    async def count(request: Request) -> Response:
        ports = {int(port) for port in request.query_params.getlist("port")}
        return JSONResponse(served_bytes(ports, own))

    async def probe(request: Request) -> Response:
        edge, port = request.query_params["edge"], int(request.query_params["port"])
        asking = asyncio.create_task(probe_edge(edge, port, own))
        while not asking.done():
            if await request.is_disconnected():  # the fault ended before a response came
                asking.cancel()
                return Response(status_code=204)
            await asyncio.wait([asking], timeout=_LOOK_SECONDS)
        return JSONResponse(asking.result())

    async def role_ready(request: Request) -> Response:
        url = f"http://{request.query_params['role']}:{HTTP_PORT}/readyz"
        try:
            async with httpx.AsyncClient(
                trust_env=False, verify=_NO_CERTIFICATES, timeout=_READY_SECONDS
            ) as client:
                answer = await client.get(url)
        except httpx.HTTPError:
            return JSONResponse(0)
        return JSONResponse(answer.status_code)

    async def readyz(_: Request) -> Response:
        return JSONResponse({"status": "ready"})

    return Starlette(
        routes=[
            Route("/bytes", count),
            Route("/probe", probe),
            Route("/ready", role_ready),
            Route("/readyz", readyz),
        ]
    )


class RemoteSocketStats:
    """The client of that server: a ``SocketStats``, and the readiness of roles.

    All methods raise httpx.HTTPError when the server itself does not answer.
    """

    def __init__(self, port: int) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=_TIMEOUT_SECONDS
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def sockets(self, ports: Collection[int]) -> Mapping[int, Sockets]:
        """Return the sockets of the clients, keyed by address (see ``SocketStats``)."""
        answer = await self._client.get("/bytes", params={"port": sorted(ports)})
        answer.raise_for_status()
        return {
            int(port): {client: (sent, received) for client, (sent, received) in found.items()}
            for port, found in answer.json().items()
        }

    async def probe(self, edge: str, port: int) -> float | None:
        """Probe the edge from inside the network; excludes the time of this request."""
        question = {"edge": edge, "port": str(port)}
        answer = await self._client.get("/probe", params=question, timeout=None)
        answer.raise_for_status()
        seconds: float | None = answer.json()
        return seconds

    async def readiness(self, role: str) -> int | None:
        """Return the status of that role's /readyz; None without an answer."""
        answer = await self._client.get("/ready", params={"role": role})
        answer.raise_for_status()
        return int(answer.json()) or None


def main(*, port: Annotated[int, typer.Option(help="Port to listen on.")]) -> None:
    """Serve until SIGTERM."""
    app = create_socket_stats()
    uvicorn.run(app, host="0.0.0.0", port=port, log_level="warning", access_log=False)  # noqa: S104


if __name__ == "__main__":
    typer.run(main)
