"""The built-in handlers of every worker."""

from __future__ import annotations

from holdfast.handlers.builtin.basic import echo, sleep
from holdfast.handlers.builtin.http_request import HttpRequest
from holdfast.handlers.builtin.send_email import SendEmail
from holdfast.handlers.handler import Handler, handler_of
from holdfast.settings import Settings

__all__ = ["Builtins"]


class Builtins:
    """The built-in handlers of one worker; ``close()`` frees their resources."""

    def __init__(self, settings: Settings) -> None:
        self._http_request = HttpRequest(settings)
        self._send_email = SendEmail(settings)

    def handlers(self) -> list[Handler]:
        """Return echo, sleep, http_request and send_email, ready to register."""
        functions = (echo, sleep, self._http_request.run, self._send_email.run)
        return [handler_of(function) for function in functions]

    async def close(self) -> None:
        """Close pooled connections to HTTP servers."""
        await self._http_request.close()
