"""Catch mail instead of delivering it, for ``holdfast up`` and development.

SMTP on ``smtp_host:smtp_port``. HTTP on ``health_host:health_port``: a page at ``/``, JSON at
``/messages`` (DELETE removes all mails), and the health paths of every role. The newest mails are
kept in memory: up to 1,000 and 16 MiB, of each the first 64 KiB of its body. The page shows less.
"""

from __future__ import annotations

import asyncio
import html
import sys
from collections import Counter, deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice

from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from holdfast.devstack import mail_text
from holdfast.devstack.mail_text import LINE_CHARACTERS_MAX
from holdfast.errors import Misconfigured
from holdfast.runtime.health import start_server, stop_server
from holdfast.runtime.host_guard import HostGuard, is_loopback
from holdfast.runtime.signals import on_stop_signal
from holdfast.settings import Settings

KEPT_MAX = 1000
KEPT_BYTES_MAX = 16 << 20
MAIL_BYTES_MAX = 4 << 20  # a larger one is refused, as by most mail servers
RECIPIENTS_MAX = 100  # as send_email has them
SHOWN_MAX = 100
SHOWN_CHARACTERS_MAX = 4096
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="3">
<meta name="viewport" content="width=device-width">
<title>Mail caught by Holdfast</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
         padding: 0 1rem; color: CanvasText; background: Canvas; color-scheme: light dark }}
  article {{ border-top: 1px solid color-mix(in srgb, CanvasText 20%, Canvas); padding: .8rem 0 }}
  h2 {{ font-size: 1rem; margin: 0 }} p {{ margin: 0; opacity: .7 }}
  pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0 0 }}
</style>
<h1>Mail caught</h1>
<p>{count} caught, the newest {shown} here; none is delivered. <a href="/messages">As JSON</a></p>
{articles}
</html>
"""
ARTICLE = """<article>
<h2>{subject}</h2>
<p>to {recipients} from {sender}, {received_at}{copies}</p>
<pre>{body}</pre>
</article>
"""


@dataclass(frozen=True)
class Mail:
    """One mail as received by SMTP."""

    received_at: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    message_id: str
    body: str
    truncated: bool

    @property
    def size(self) -> int:
        """Return about how many bytes it takes."""
        texts = (self.sender, *self.recipients, self.subject, self.message_id, self.body)
        return sum(map(sys.getsizeof, texts))


class Mailbox:
    """The mails received, oldest first; also the handler that aiosmtpd calls."""

    def __init__(self) -> None:
        self.mails: deque[Mail] = deque()
        self._kept_bytes = 0

    def add(self, mail: Mail) -> None:
        """Keep a mail; drop the oldest ones beyond the limits."""
        self.mails.append(mail)
        self._kept_bytes += mail.size
        while len(self.mails) > KEPT_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self._kept_bytes -= self.mails.popleft().size

    def clear(self) -> None:
        """Drop all mails."""
        self.mails.clear()
        self._kept_bytes = 0

    async def handle_DATA(  # noqa: N802 (aiosmtpd requires this name)
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        # In a thread, since reading may take half a second; the page is served meanwhile.
        text = await asyncio.to_thread(mail_text.read, envelope.original_content or b"")
        self.add(
            Mail(
                received_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                sender=(envelope.mail_from or "")[:LINE_CHARACTERS_MAX],
                recipients=tuple(
                    recipient[:LINE_CHARACTERS_MAX]
                    for recipient in envelope.rcpt_tos[:RECIPIENTS_MAX]
                ),
                subject=text.subject,
                message_id=text.message_id,
                body=text.body,
                truncated=text.truncated,
            )
        )
        return "250 caught"


def create_page(mailbox: Mailbox) -> HostGuard:
    """Return the HTTP application that shows a mailbox to pages of this server alone."""

    async def page(request: Request) -> Response:
        return HTMLResponse(_render(mailbox))

    async def messages(request: Request) -> Response:
        if request.method == "DELETE":
            mailbox.clear()
            return Response(status_code=204)
        return JSONResponse([asdict(mail) for mail in reversed(mailbox.mails)])

    async def healthy(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/messages", messages, methods=["GET", "DELETE"]),
            Route("/healthz", healthy),
            Route("/readyz", healthy),
        ]
    )
    return HostGuard(app)


def _render(mailbox: Mailbox) -> str:
    copies = Counter(mail.message_id for mail in mailbox.mails if mail.message_id)
    articles = [
        ARTICLE.format(
            subject=html.escape(mail.subject or "(no subject)"),
            recipients=html.escape(", ".join(mail.recipients)),
            sender=html.escape(mail.sender),
            received_at=mail.received_at,
            copies=f", one of {number} copies" if (number := copies[mail.message_id]) > 1 else "",
            body=html.escape(mail.body[:SHOWN_CHARACTERS_MAX])
            + (" […]" if len(mail.body) > SHOWN_CHARACTERS_MAX else ""),
        )
        for mail in islice(reversed(mailbox.mails), SHOWN_MAX)
    ]
    return PAGE.format(count=len(mailbox.mails), shown=len(articles), articles="".join(articles))


async def catch_mail(settings: Settings) -> None:
    """Serve both ports until SIGTERM or SIGINT.

    Raises:
        OSError: a port is taken.
        Misconfigured: a port would be reachable from the network, which could read all mail.
    """
    for variable, host in (
        ("HOLDFAST_HEALTH_HOST", settings.health_host),
        ("HOLDFAST_SMTP_HOST", settings.smtp_host),
    ):
        if not is_loopback(host) and not settings.api_without_keys:
            raise Misconfigured(f"{variable}={host}: a mail catcher listens on loopback only")
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    on_stop_signal(stopped.set)
    smtp = await loop.create_server(
        lambda: SMTP(
            mailbox,
            hostname="localhost",
            enable_SMTPUTF8=True,
            data_size_limit=MAIL_BYTES_MAX,
            loop=loop,
        ),
        settings.smtp_host,
        settings.smtp_port,
    )
    async with smtp:
        server, serving = await start_server(
            create_page(mailbox),
            settings.health_host,
            settings.health_port,
            connections_max=settings.connections_max,
        )
        try:
            await stopped.wait()
        finally:
            await stop_server(server, serving)
