"""The built-in handlers of every worker."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from holdfast.handlers.builtin.basic import echo, sleep
from holdfast.handlers.context import Context
from holdfast.handlers.handler import Handler, handler_of, task
from holdfast.settings import Settings

if TYPE_CHECKING:
    from holdfast.handlers.builtin.http_request import HttpRequest
    from holdfast.handlers.builtin.send_email import SendEmail

__all__ = ["Builtins"]


class Builtins:
    """The built-in handlers of one worker; ``close()`` frees what they hold.

    The HTTP and mail clients are imported by the first task that needs them: most workers never do,
    and every start would pay for it.
    """

    def __init__(self, settings: Settings) -> None:
        """Raise Misconfigured if ``http_allowed_hosts`` has an impossible entry."""
        self._settings = settings
        if settings.http_allowed_hosts:
            _ = self._http

    def handlers(self) -> list[Handler]:
        """Return echo, sleep, http_request and send_email, ready to register."""
        functions = (echo, sleep, self.http_request, self.send_email)
        return [handler_of(function) for function in functions]

    @task("http_request")
    async def http_request(self, ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
        """Call an HTTP server; see ``HttpRequest``."""
        return await self._http.run(ctx, payload)

    @task("send_email")
    async def send_email(self, ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
        """Send one message; see ``SendEmail``."""
        return await self._mail.run(ctx, payload)

    async def close(self) -> None:
        """Close connections kept open to HTTP servers."""
        if "_http" in vars(self):
            await self._http.close()

    @cached_property
    def _http(self) -> HttpRequest:
        from holdfast.handlers.builtin.http_request import HttpRequest

        return HttpRequest(self._settings)

    @cached_property
    def _mail(self) -> SendEmail:
        from holdfast.handlers.builtin.send_email import SendEmail

        return SendEmail(self._settings)
