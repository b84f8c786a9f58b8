"""Read a JSON body of limited size, in UTF-8, with errors that name the exact defect.

FastAPI's own ``max_body_size`` counts streamed bytes too, but answers in plain text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from holdfast.api import problems
from holdfast.api.problems import Problem
from holdfast.model import payload
from holdfast.settings import Settings

_CHARSET = re.compile(r""";\s*charset\*?\s*=\s*["']?([^"';\s]*)""", re.IGNORECASE)


class JsonRequest(Request):
    """A request whose body is at most ``bytes_max`` bytes of JSON in UTF-8."""

    def __init__(self, request: Request, bytes_max: int) -> None:
        super().__init__(request.scope, request.receive)
        self._bytes_max = bytes_max

    async def body(self) -> bytes:
        """Read the whole body, once.

        Raises:
            Problem: 413 once the limit is exceeded, whether or not Content-Length was right; 415.
        """
        if not hasattr(self, "_body"):
            self._check_headers()
            chunks: list[bytes] = []
            size = 0
            async for chunk in self.stream():
                size += len(chunk)
                if size > self._bytes_max:
                    raise self._too_large()
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        """Parse the body. NaN and huge numbers pass: validation reports their location.

        Raises:
            Problem: 400 if it is not JSON in UTF-8, 422 if it is nested too deeply or a number is
                too long.
        """
        try:
            return json.loads((await self.body()).decode())
        except UnicodeDecodeError as error:
            raise Problem(
                problems.MALFORMED,
                f"The body is not UTF-8: the byte at offset {error.start} is invalid.",
            ) from error
        except json.JSONDecodeError as error:
            where = f"line {error.lineno} column {error.colno}"
            message = error.msg.removesuffix(" at")
            raise Problem(problems.MALFORMED, f"{message} at {where}.") from error
        except RecursionError as error:
            detail = (
                f"The body is nested too deeply: at most {payload.DEPTH_MAX} levels are allowed."
            )
            raise Problem(problems.UNSTORABLE, detail) from error
        except ValueError as error:
            # The interpreter limits integers to 4,300 digits.
            detail = f"A number has more than {sys.get_int_max_str_digits()} digits."
            raise Problem(problems.UNSTORABLE, detail) from error

    def _check_headers(self) -> None:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            found = f"not {kind[:100]}" if kind else "but is missing"
            raise Problem(problems.MEDIA, f"Content-Type must be application/json, {found}.")
        self._check_encoding()
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._bytes_max:
            raise self._too_large()

    def _check_encoding(self) -> None:
        """Refuse to read the bytes as something else than the client says that they are."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"", "identity"}:
            detail = f"Content-Encoding must be absent, not {coding[:100]}."
            raise Problem(problems.MEDIA, detail, headers={"Accept-Encoding": "identity"})
        for charset in _CHARSET.findall(self.headers["content-type"]):
            if charset.lower() not in {"utf-8", "utf8"}:
                raise Problem(problems.MEDIA, f"The charset must be utf-8, not {charset[:100]}.")

    def _too_large(self) -> Problem:
        # No "Connection: close": the kernel would reset a connection with unread data, and the
        # client would not see this response. The server discards the rest of the body.
        return Problem(problems.TOO_LARGE, f"The body exceeds {self._bytes_max} bytes.")


def route_class(settings: Settings) -> type[APIRoute]:
    """Return a route class that reads bodies as JsonRequest; batches have a higher limit."""

    class JsonRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            batch = self.path.rstrip("/").endswith("/batch")
            bytes_max = settings.batch_bytes_max if batch else settings.body_bytes_max

            async def read(request: Request) -> Response:
                return await handle(JsonRequest(request, bytes_max))

            return read

    return JsonRoute
