"""Catch mail instead of delivering it, for ``holdfast up`` and development.

SMTP on ``smtp_host:smtp_port``. HTTP on ``health_host:health_port``: a page at ``/``, JSON at
``/messages`` (DELETE removes all mails), and the health paths of every role. The newest 1,000 mails
are kept in memory.
"""

from __future__ import annotations

import asyncio
import html
from collections import Counter, deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from holdfast.runtime.signals import on_stop_signal
from holdfast.settings import Settings

KEPT_MAX = 1000
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
<p>{count} caught, newest first. Nothing is delivered. <a href="/messages">As JSON</a></p>
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


class Mailbox:
    """The mails received, oldest first; also the handler that aiosmtpd calls."""

    def __init__(self) -> None:
        self.mails: deque[Mail] = deque(maxlen=KEPT_MAX)

    async def handle_DATA(  # noqa: N802 (aiosmtpd requires this name)
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        content = envelope.original_content or b""
        message = message_from_bytes(content, policy=policy.default)
        part = message.get_body(("plain", "html"))
        self.mails.append(
            Mail(
                received_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                sender=envelope.mail_from or "",
                recipients=tuple(envelope.rcpt_tos),
                subject=str(message.get("Subject", "")),
                message_id=str(message.get("Message-ID", "")).strip(),
                body=str(part.get_content()) if part is not None else "",
            )
        )
        return "250 caught"


def create_page(mailbox: Mailbox) -> Starlette:
    """Return the HTTP application that shows a mailbox."""

    async def page(request: Request) -> Response:
        return HTMLResponse(_render(mailbox))

    async def messages(request: Request) -> Response:
        if request.method == "DELETE":
            mailbox.mails.clear()
            return Response(status_code=204)
        return JSONResponse([asdict(mail) for mail in reversed(mailbox.mails)])

    async def healthy(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/messages", messages, methods=["GET", "DELETE"]),
            Route("/healthz", healthy),
            Route("/readyz", healthy),
        ]
    )


def _render(mailbox: Mailbox) -> str:
    copies = Counter(mail.message_id for mail in mailbox.mails if mail.message_id)
    articles = [
        ARTICLE.format(
            subject=html.escape(mail.subject or "(no subject)"),
            recipients=html.escape(", ".join(mail.recipients)),
            sender=html.escape(mail.sender),
            received_at=mail.received_at,
            copies=f", one of {number} copies" if (number := copies[mail.message_id]) > 1 else "",
            body=html.escape(mail.body),
        )
        for mail in reversed(mailbox.mails)
    ]
    return PAGE.format(count=len(mailbox.mails), articles="".join(articles))


async def catch_mail(settings: Settings) -> None:
    """Serve both ports until SIGTERM or SIGINT.

    Raises:
        OSError: the SMTP port is taken.
    """
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    # uvicorn handles these signals while it serves and raises them again when it has stopped.
    on_stop_signal(stopped.set)
    smtp = await loop.create_server(
        lambda: SMTP(mailbox, hostname="localhost", enable_SMTPUTF8=True, loop=loop),
        settings.smtp_host,
        settings.smtp_port,
    )
    web = uvicorn.Server(
        uvicorn.Config(
            create_page(mailbox),
            host=settings.health_host,
            port=settings.health_port,
            log_level="warning",
            lifespan="off",
        )
    )
    async with smtp:
        await web.serve()
