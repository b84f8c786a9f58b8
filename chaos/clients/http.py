"""Send the requests of a client with httpx."""

from __future__ import annotations

import ssl

import httpx

from chaos.clients.client import Request, Response, bearer
from chaos.scenario.workload import CLIENT_TIMEOUT_SECONDS

# The APIs speak plain HTTP; loading certificates for each client would cost 10 ms of CPU.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# One persistent connection per client, as requests keeps it in the live arena.
_LIMITS = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)


def connection(api_url: str, secret: str | None = None) -> httpx.AsyncClient:
    """Return what sends the requests of one client to an API, by default with this secret."""
    return httpx.AsyncClient(
        base_url=api_url,
        headers=bearer(secret) if secret else None,
        trust_env=False,
        verify=_NO_CERTIFICATES,
        timeout=CLIENT_TIMEOUT_SECONDS,
        limits=_LIMITS,
    )


async def send(http: httpx.AsyncClient, request: Request) -> Response:
    """Send a request; a broken connection or a timeout is a response without status."""
    try:
        response = await http.request(
            request.method, request.path, json=request.body, headers=request.headers
        )
    except httpx.HTTPError as error:
        return Response(0, error=repr(error)[:300])
    return Response(response.status_code, _body(response))


def _body(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None
