"""send_email against a real SMTP server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import compat32, default
from typing import Any
from uuid import UUID

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from pydantic import SecretStr

from holdfast.handlers import Context, Discard, Retry
from holdfast.handlers.builtin.send_email import SendEmail
from holdfast.handlers.time_limit import TimeLimit
from holdfast.model.claim import Grant
from holdfast.settings import Settings

TASK_ID = UUID("01890000-0000-7000-8000-000000000001")


class Mailbox:
    """Accepts every message except those a test configures it to refuse."""

    def __init__(self) -> None:
        self.messages: list[tuple[list[str], EmailMessage]] = []
        self.contents: list[bytes] = []
        self.refused: dict[str, str] = {}
        self.data_reply = "250 taken"

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if not self.data_reply.startswith("250"):
            return self.data_reply
        assert isinstance(envelope.content, bytes)
        self.contents.append(envelope.content)
        message = BytesParser(policy=default).parsebytes(envelope.content)
        assert isinstance(message, EmailMessage)
        self.messages.append((list(envelope.rcpt_tos), message))
        return self.data_reply


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, Mailbox]]:
    mailbox = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield port, mailbox
    controller.stop()


@pytest.fixture
def mailbox(server: tuple[int, Mailbox]) -> Mailbox:
    made = server[1]
    made.messages.clear()
    made.contents.clear()
    made.refused.clear()
    made.data_reply = "250 taken"
    return made


@pytest.fixture
def settings(server: tuple[int, Mailbox]) -> Settings:
    return Settings(smtp_port=server[0], mail_from="robot@shop.example")


def context(attempt: int = 1, timeout_seconds: float = 30.0) -> Context:
    loop = asyncio.get_running_loop()
    grant = Grant(
        task_id=TASK_ID,
        epoch=2 * attempt - 1,
        attempt=attempt,
        name="send_email",
        queue="default",
        payload=b"{}",
        max_attempts=5,
        failures=attempt - 1,
        timeout_seconds=timeout_seconds,
        traceparent=None,
        claimed_at=datetime(2026, 1, 9, 10, tzinfo=UTC),
        queued_at=datetime(2026, 1, 9, 10, tzinfo=UTC),
        waited_seconds=0.01,
        age_seconds=0.01,
        quarantined=False,
    )
    limit = TimeLimit(timeout_seconds, clock=loop.time, claimed=loop.time())
    limit.begin()
    return Context(grant, limit=limit)


async def test_only_an_address_is_required(mailbox: Mailbox, settings: Settings) -> None:
    result = await SendEmail(settings).run(context(), {"to": "user@example.com"})
    assert result == {
        "message_id": f"<{TASK_ID}@shop.example>",
        "accepted": ["user@example.com"],
        "refused": {},
    }
    recipients, message = mailbox.messages[0]
    assert recipients == ["user@example.com"]
    assert message["Message-ID"] == f"<{TASK_ID}@shop.example>"
    assert message["From"] == "robot@shop.example"
    assert message["To"] == "user@example.com"
    assert message["Date"].datetime == datetime(2026, 1, 9, 10, tzinfo=UTC)
    assert message["Subject"]
    assert message.get_content().strip()


async def test_subject_body_and_many_recipients(mailbox: Mailbox, settings: Settings) -> None:
    payload = {
        "to": ["a@example.com", "b@example.com", "a@example.com"],
        "subject": "Gr\u00fc\u00dfe \u20ac",
        "body": "Line one\n.leading dot\n\u20ac\n",
    }
    await SendEmail(settings).run(context(), payload)
    recipients, message = mailbox.messages[0]
    assert recipients == ["a@example.com", "b@example.com"]
    assert message["Subject"] == payload["subject"]
    assert message.get_content().replace("\r\n", "\n") == payload["body"]


async def test_recipients_are_written_one_a_line(mailbox: Mailbox, settings: Settings) -> None:
    to = ["a@example.com", "jos\u00e9@b\u00fccher.example", "a" * 300 + "@example.com"]
    await SendEmail(settings).run(context(), {"to": to})
    assert mailbox.messages[0][0] == to
    [content] = mailbox.contents
    assert f"\r\nTo: {to[0]},\r\n {to[1]},\r\n {to[2]}\r\nSubject: ".encode() in content


@pytest.mark.parametrize(
    "address", ["a.a" + ".a" * 110 + "@" + "b." * 37 + "c", "\u00e9" * 200 + "@\u00e9.example"]
)
async def test_recipients_of_any_form_cost_the_loop_the_same(
    mailbox: Mailbox, settings: Settings, address: str
) -> None:
    """The thread of the mail server is not counted."""

    async def cost(text: str) -> float:
        began = time.thread_time()
        await SendEmail(settings).run(context(), {"to": [f"{n}{text}" for n in range(100)]})
        return time.thread_time() - began

    await cost("a@example.com")  # imports
    plain = min([await cost("a@example.com") for _ in range(3)])
    assert await cost(address) < 10 * plain


@pytest.mark.parametrize(
    "subject",
    [
        "=?utf-8?q?hi=0aReply-To:_evil@example.net=0a=0a<h1>phish</h1>?=",
        "=?utf-8?q?hi=0d=0aBcc:_evil@example.net?=",
        "=?utf-8?b?DQpCY2M6IGV2aWxAeC5jb20=?=",
        "=?utf-8?q?a=0d?= =?utf-8?q?=0aBcc:_evil@example.net?=",
        "=?utf-8*en?Q?a=E2=80=A8Bcc:_evil@example.net?=",
        "Re: =?utf-8?q?half",
        "plain",
        "long " * 150,
        "\u20ac" * 300,
        "x" * 998,
    ],
)
async def test_subject_is_sent_literally_and_adds_no_line_to_the_message(
    mailbox: Mailbox, settings: Settings, subject: str
) -> None:
    """Judged by the bytes received, with a parser that decodes nothing."""
    payload = {"to": "user@example.com", "subject": subject, "body": "real body\n"}
    await SendEmail(settings).run(context(), payload)
    [content] = mailbox.contents
    head, _, body = content.partition(b"\r\n\r\n")
    assert body == b"real body\r\n"
    names = [line.partition(b":")[0] for line in head.split(b"\r\n") if not line[:1].isspace()]
    assert names == [
        *(b"From", b"To", b"Subject", b"Date", b"Message-ID"),
        *(b"Content-Type", b"Content-Transfer-Encoding", b"MIME-Version"),
    ]
    assert max(map(len, content.split(b"\r\n"))) <= 78
    received = BytesParser(policy=compat32).parsebytes(content)["Subject"]
    assert str(make_header(decode_header(received))) == subject


async def test_message_id_is_the_same_in_every_attempt(
    mailbox: Mailbox, settings: Settings
) -> None:
    for attempt in (1, 2):
        await SendEmail(settings).run(context(attempt), {"to": "user@example.com"})
    first, second = (message["Message-ID"] for _, message in mailbox.messages)
    assert first == second


@pytest.mark.parametrize(
    "reply", ["450 mailbox busy", "421 going down", "452 no space", "499 later"]
)
async def test_temporary_refusals_are_retried(
    mailbox: Mailbox, settings: Settings, reply: str
) -> None:
    mailbox.refused["user@example.com"] = reply
    with pytest.raises(Retry, match=reply[:3]):
        await SendEmail(settings).run(context(), {"to": "user@example.com"})
    mailbox.refused.clear()
    mailbox.data_reply = reply
    with pytest.raises(Retry, match=reply[:3]):
        await SendEmail(settings).run(context(), {"to": "user@example.com"})


async def test_permanent_refusals_are_discarded(mailbox: Mailbox, settings: Settings) -> None:
    mailbox.refused["user@example.com"] = "550 no such user"
    with pytest.raises(Discard, match="550 no such user"):
        await SendEmail(settings).run(context(), {"to": "user@example.com"})
    mailbox.data_reply = "554 looks like spam"
    with pytest.raises(Discard, match="554 looks like spam"):
        await SendEmail(settings).run(context(), {"to": "other@example.com"})


async def test_one_temporary_refusal_among_permanent_ones_is_retried(
    mailbox: Mailbox, settings: Settings
) -> None:
    mailbox.refused.update({"a@example.com": "550 no such user", "b@example.com": "450 busy"})
    with pytest.raises(Retry, match="450 busy"):
        await SendEmail(settings).run(context(), {"to": ["a@example.com", "b@example.com"]})


async def test_partly_refused_message_lists_the_refused_addresses(
    mailbox: Mailbox, settings: Settings
) -> None:
    mailbox.refused["a@example.com"] = "550 no such user"
    payload = {"to": ["a@example.com", "b@example.com"]}
    result = await SendEmail(settings).run(context(), payload)
    assert result["accepted"] == ["b@example.com"]
    assert result["refused"] == {"a@example.com": "550 no such user"}


async def test_unreachable_server_is_retried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Retry, match=f"the mail server 127.0.0.1:{port}"):
        await SendEmail(Settings(smtp_port=port)).run(context(), {"to": "user@example.com"})


async def test_unresponsive_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(smtp_port=silent.getsockname()[1])
        with pytest.raises(Retry, match="the mail server"):
            await SendEmail(settings).run(context(timeout_seconds=0.3), {"to": "user@example.com"})


async def test_rejected_login_is_retried() -> None:
    def refuse(*_: object) -> AuthResult:
        return AuthResult(success=False, handled=False)

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(
        Mailbox(),
        hostname="127.0.0.1",
        port=port,
        auth_require_tls=False,
        authenticator=refuse,
    )
    controller.start()
    settings = Settings(smtp_port=port, smtp_username="robot", smtp_password=SecretStr("wrong"))
    try:
        with pytest.raises(Retry, match="rejected the login: 535"):
            await SendEmail(settings).run(context(), {"to": "user@example.com"})
    finally:
        controller.stop()


async def test_missing_starttls_is_an_error(mailbox: Mailbox, settings: Settings) -> None:
    changed = settings.model_copy(update={"smtp_start_tls": True})
    with pytest.raises(Retry, match="STARTTLS extension not supported"):
        await SendEmail(changed).run(context(), {"to": "user@example.com"})
    assert mailbox.messages == []


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "to: Field required"),
        ({"to": "not-an-address"}, "to.0: must be a bare address"),
        ({"to": []}, "to: List should have at least 1 item"),
        ({"to": "a@b.example\r\nBcc: c@d.example"}, "to.0: must be a bare address"),
        ({"to": "a@b.example", "subject": "x\nBcc: c@d.example"}, "subject: must be one line"),
        ({"to": "a@b.example", "subject": "x\u2028Bcc: c@d.example"}, "subject: must be one line"),
        ({"to": "a@b.example", "subject": "x\x85Bcc: c@d.example"}, "subject: must be one line"),
        ({"to": "a\x01@b.example"}, "to.0: must be a bare address"),
        ({"to": "=?utf-8?q?a=0aBcc:_c?=@b.example"}, "to.0: must be a bare address"),
        ({"to": ["a@b.example", "a@=?utf-8?b?DQpCY2M6IGM=?="]}, "to.1: must be a bare address"),
        ({"to": "a@[" + "." * 100}, "to.0: must be a bare address"),
        ({"to": "\\" * 200 + "@b.example"}, "to.0: must be a bare address"),
        ({"to": "a[b]@b.example"}, "to.0: must be a bare address"),
        ({"to": 5}, "to: Input should be a valid list"),
        ({"to": "a@b.example", "sender": "me@x.example"}, "sender: Extra inputs"),
    ],
)
async def test_invalid_payloads_are_discarded(
    mailbox: Mailbox, settings: Settings, payload: dict[str, Any], message: str
) -> None:
    with pytest.raises(Discard, match=f"^invalid payload for send_email: {message}"):
        await SendEmail(settings).run(context(), payload)
    assert mailbox.messages == []
