"""Check bearer keys in constant time. Every path except ``OPEN_PATHS`` requires one.

A key has a name, the namespace of the idempotency keys that its clients send. The secret is no part
of it, so that a client whose secret is replaced still finds its earlier requests.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.api import problems
from holdfast.api.problems import Problem
from holdfast.errors import Misconfigured
from holdfast.runtime.host_guard import is_loopback
from holdfast.settings import Settings

# Probes carry no keys, and the API's documentation is public. /metrics requires a key: it reveals
# task names and volumes.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/redoc", "/openapi.json"})
NAME_KEY = "holdfast.api_key"  # where the scope of a request has the name of its key
_ASSETS = "/static-offline-docs/"  # scripts and styles of /docs and /redoc (fastapi-offline)


def require_safe_bind(settings: Settings) -> None:
    """Refuse to serve the network without keys.

    Raises:
        Misconfigured: no keys, ``api_host`` is not a loopback address, and
            ``api_without_keys`` is not set.
    """
    if settings.api_keys or settings.api_without_keys or is_loopback(settings.api_host):
        return
    raise Misconfigured(
        f"HOLDFAST_API_HOST={settings.api_host} is reachable from the network, but "
        "HOLDFAST_API_KEYS is empty: set a key, or listen on 127.0.0.1"
    )


def require_nonempty_keys(settings: Settings) -> None:
    """Refuse empty keys.

    Raises:
        Misconfigured: a key is empty or blank.
    """
    secrets = [secret for named in settings.api_keys.values() for secret in named]
    if not all(secret.get_secret_value().strip() for secret in secrets):
        raise Misconfigured("HOLDFAST_API_KEYS contains an empty key: remove it, or set a value")


class BearerAuth:
    """ASGI middleware that answers 401 without a valid ``Authorization: Bearer <key>``.

    It covers all paths, so a new route requires a key by default.
    """

    def __init__(self, app: ASGIApp, keys: Mapping[str, tuple[SecretStr, ...]]) -> None:
        self._app = app
        self._names = {
            _digest(secret.get_secret_value().encode()): name
            for name, secrets in keys.items()
            for secret in secrets
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        name = self._name_of_key(scope)
        if name is not None:
            scope[NAME_KEY] = name
            await self._app(scope, receive, send)
            return
        problem = Problem(
            problems.UNAUTHORIZED,
            "Send one of the server's HOLDFAST_API_KEYS as Authorization: Bearer <key>.",
            headers={"WWW-Authenticate": 'Bearer realm="holdfast"'},
        )
        await problem.response(scope["path"])(scope, receive, send)

    def _name_of_key(self, scope: Scope) -> str | None:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode("latin-1"))  # the bytes as received
        # Compare with every key, so that timing does not reveal which one matched.
        names = [name for known, name in self._names.items() if hmac.compare_digest(digest, known)]
        return names[0] if names and scheme.lower() == "bearer" else None


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(_ASSETS)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
