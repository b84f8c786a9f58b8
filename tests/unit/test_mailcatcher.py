"""The mail catcher: what it keeps, and who may read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import httpx
import pytest
from waiting import until

from holdfast.devstack import mailcatcher
from holdfast.devstack.host import free_port
from holdfast.devstack.mail_text import BODY_CHARACTERS_MAX, LINE_CHARACTERS_MAX
from holdfast.devstack.mailcatcher import Mail, Mailbox, catch_mail
from holdfast.errors import Misconfigured
from holdfast.settings import Settings


@asynccontextmanager
async def catching() -> AsyncIterator[tuple[Settings, httpx.AsyncClient]]:
    settings = Settings(smtp_port=free_port(), health_port=free_port())
    running = asyncio.create_task(catch_mail(settings))
    url = f"http://127.0.0.1:{settings.health_port}"
    async with httpx.AsyncClient(base_url=url) as client:

        async def ready() -> bool:
            assert not running.done(), running
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready)
        try:
            yield settings, client
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def send(settings: Settings, body: str, **headers: str) -> Any:
    message = EmailMessage()
    message["To"] = "user@example.com"
    message["From"] = "robot@example.com"
    for name, value in headers.items():
        message[name] = value
    message.set_content(body)
    return await aiosmtplib.send(message, hostname="127.0.0.1", port=settings.smtp_port)


async def test_mail_is_shown_to_pages_of_this_machine_only() -> None:
    async with catching() as (settings, client):
        await send(settings, "hello\n", subject="a <b>")
        [mail] = (await client.get("/messages")).json()
        assert (mail["subject"], mail["body"].strip()) == ("a <b>", "hello")
        assert mail["truncated"] is False
        page = await client.get("/", headers={"Host": f"localhost:{settings.health_port}"})
        assert "a &lt;b&gt;" in page.text
        assert page.headers["Cache-Control"] == "no-store"
        for path in ("/", "/messages"):
            for method in ("GET", "DELETE"):
                foreign = await client.request(method, path, headers={"Host": "evil.example"})
                assert foreign.status_code == 421
                foreign = await client.request(method, path, headers={"Origin": "http://x"})
                assert foreign.status_code == 403
                assert "hello" not in foreign.text
        assert len((await client.get("/messages")).json()) == 1
        assert (await client.delete("/messages")).status_code == 204
        assert (await client.get("/messages")).json() == []


async def test_large_mail_is_kept_in_part_or_refused() -> None:
    async with catching() as (settings, client):
        await send(settings, "z" * (2 * BODY_CHARACTERS_MAX), subject="s" * 5000)
        [mail] = (await client.get("/messages")).json()
        assert (len(mail["body"]), mail["truncated"]) == (BODY_CHARACTERS_MAX, True)
        assert len(mail["subject"]) == LINE_CHARACTERS_MAX
        assert len((await client.get("/")).text) < 3 * mailcatcher.SHOWN_CHARACTERS_MAX
        with pytest.raises(aiosmtplib.SMTPResponseException, match="552"):
            await send(settings, "z\n" * mailcatcher.MAIL_BYTES_MAX)
        assert len((await client.get("/messages")).json()) == 1


def test_newest_mails_are_kept_within_the_bounds() -> None:
    mailbox = Mailbox()
    for number in range(3000):
        body = "\N{EURO SIGN}" * (BODY_CHARACTERS_MAX if number < 1500 else 1)
        mailbox.add(Mail("", "a", ("b",), str(number), "", body, truncated=False))
        assert sum(mail.size for mail in mailbox.mails) <= mailcatcher.KEPT_BYTES_MAX
        assert mailbox.mails[-1].subject == str(number)
    assert len(mailbox.mails) == mailcatcher.KEPT_MAX


@pytest.mark.parametrize("field", ["health_host", "smtp_host"])
async def test_it_listens_on_loopback_only(field: str) -> None:
    with pytest.raises(Misconfigured, match=f"HOLDFAST_{field.upper()}=0.0.0.0"):
        await catch_mail(Settings(**{field: "0.0.0.0"}))
