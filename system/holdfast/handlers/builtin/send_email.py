"""send_email: send one message through the configured mail server.

Delivery is at least once: if the server's reply is lost, the message is sent again. The Message-ID
is derived from the effect key, so receivers can recognise duplicates.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from email.header import Header
from email.headerregistry import BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy, Policy
from email.utils import format_datetime
from typing import Annotated, Any, cast

import aiosmtplib
from opentelemetry.util.types import AttributeValue
from pydantic import AfterValidator, BeforeValidator, Field

from holdfast.handlers.builtin.payload import Payload, parse
from holdfast.handlers.context import Context
from holdfast.handlers.errors import Discard, Retry
from holdfast.settings import Settings

# An address without quotes, comments and routes; its host may be an IPv4 address in brackets.
_ADDRESS = re.compile(r"[^@\s<>,;:\"()\[\]\\]+@([^@\s<>,;:\"()\[\]\\]+|\[[0-9]+(\.[0-9]+){3}\])")
_ENCODED_WORD = "=?"  # begins an encoded word (RFC 2047), which parsers of headers decode
_LINE_BREAKS = frozenset({"Cc", "Zl", "Zp"})  # categories: controls, U+2028, U+2029
_UNFOLDED_MAX = 66  # with "Subject: " a line of at most 78 characters
_TIMEOUT_SECONDS_MAX = 60.0


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text) or not text.isprintable() or _ENCODED_WORD in text:
        raise ValueError("must be a bare address such as user@example.com")
    return text


def _one_line(text: str) -> str:
    if any(unicodedata.category(character) in _LINE_BREAKS for character in text):
        raise ValueError("must be one line of text")
    return text


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Address = Annotated[str, Field(max_length=320), AfterValidator(_address)]


class EmailPayload(Payload):
    """The payload: ``to`` is one address or a list of up to 100; the body is plain text."""

    # No union: its errors would name the branches, in words of the validator.
    to: Annotated[list[Address], Field(min_length=1, max_length=100), BeforeValidator(_listed)]
    subject: Annotated[str, Field(max_length=998), AfterValidator(_one_line)] = (
        "A message from Holdfast"
    )
    body: str = "This message was sent by a Holdfast task.\n"

    @property
    def recipients(self) -> list[str]:
        """``to`` as a list without duplicates."""
        return list(dict.fromkeys(self.to))


class LiteralHeader:
    """A header that is written as it is given (a mixin for ``HeaderRegistry``).

    The standard classes parse a header when it is set, in time that can grow with the square of its
    length, on the event loop.
    """

    max_count = 1

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """Keep the text as it is."""
        kwds.update(decoded=value, parse_tree=None)


class LiteralSubject(LiteralHeader):
    """A subject that receivers show exactly as given.

    The standard class would also decode an encoded word in the text, and CPython before 3.12.5
    writes decoded line breaks to the wire: the subject could then add headers and a body.
    """

    def fold(self, *, policy: Policy) -> str:
        """Return the lines of the header, in encoded words unless the text is short ASCII."""
        text = str(self)
        if not text.isascii() or _ENCODED_WORD in text or len(text) > _UNFOLDED_MAX:
            text = Header(text, "utf-8", header_name="Subject").encode(linesep=policy.linesep)
        return f"Subject: {text}{policy.linesep}"


class LiteralRecipients(LiteralHeader):
    """Addresses that were checked, and are separated by a comma and a space."""

    def fold(self, *, policy: Policy) -> str:
        """Return the header with a line for each address."""
        return f"To: {str(self).replace(', ', f',{policy.linesep} ')}{policy.linesep}"


def _headers() -> HeaderRegistry:
    registry = HeaderRegistry()
    registry.map_to_type("subject", cast("type[BaseHeader]", LiteralSubject))
    registry.map_to_type("to", cast("type[BaseHeader]", LiteralRecipients))
    return registry


_POLICY = EmailPolicy(header_factory=_headers())


class SendEmail:
    """The handler, for the mail server of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self, ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
        """Send the message; return ``message_id`` and the addresses ``accepted``, ``refused``."""
        email = parse(EmailPayload, "send_email", payload)
        server: dict[str, AttributeValue] = {
            "server.address": self._settings.smtp_host,
            "server.port": self._settings.smtp_port,
            "network.protocol.name": "smtp",
        }
        try:
            with ctx.client_span("smtp send", server):
                message = _compose(ctx, email, self._settings.mail_from)
                refused = await self._send(message, email.recipients, ctx.remaining_seconds())
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _exception_of_all(error) from error
        except aiosmtplib.SMTPAuthenticationError as error:
            # A misconfiguration, which an operator can fix between retries.
            raise Retry(reason=f"the mail server rejected the login: {error.code}") from error
        except aiosmtplib.SMTPResponseException as error:
            raise _exception(error.code, error.message) from error
        except aiosmtplib.SMTPNotSupported as error:
            raise Discard(f"the mail server cannot send this message: {error}") from error
        except ValueError as error:  # of the libraries: an address that they refuse
            raise Discard(f"invalid payload for send_email: {error}") from error
        except (aiosmtplib.SMTPException, OSError) as error:
            where = f"{self._settings.smtp_host}:{self._settings.smtp_port}"
            raise Retry(reason=f"the mail server {where} is unavailable: {error}") from error
        accepted = [address for address in email.recipients if address not in refused]
        return {"message_id": message["Message-ID"], "accepted": accepted, "refused": refused}

    async def _send(
        self, message: EmailMessage, recipients: list[str], remaining_seconds: float
    ) -> dict[str, str]:
        """Send the message; return refused addresses with the reply, if others were accepted."""
        settings = self._settings
        password = settings.smtp_password
        refused, _ = await aiosmtplib.send(
            message,
            sender=settings.mail_from,
            recipients=recipients,
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username,
            password=password.get_secret_value() if password else None,
            local_hostname=socket.gethostname(),
            start_tls=settings.smtp_start_tls,
            timeout=min(_TIMEOUT_SECONDS_MAX, remaining_seconds),
        )
        return {address: f"{reply.code} {reply.message}" for address, reply in refused.items()}


def _compose(ctx: Context, email: EmailPayload, sender: str) -> EmailMessage:
    message = EmailMessage(_POLICY)
    message["From"] = sender
    message["To"] = ", ".join(email.recipients)
    message["Subject"] = email.subject
    message["Date"] = format_datetime(ctx.claimed_at)
    if ctx.traceparent is not None:
        message["traceparent"] = ctx.traceparent
    message["Message-ID"] = f"<{ctx.effect_key}@{sender.rpartition('@')[2] or 'localhost'}>"
    message.set_content(email.body)
    return message


def _exception(code: int, reply: str) -> Exception:
    text = f"the mail server replied {code} {reply}"
    return Discard(text) if 500 <= code <= 599 else Retry(reason=text)


def _exception_of_all(error: aiosmtplib.SMTPRecipientsRefused) -> Exception:
    """Return the exception if every address was refused: permanent only if all refusals are."""
    temporary = [refusal for refusal in error.recipients if refusal.code < 500]
    first = (temporary or error.recipients)[0]
    return _exception(first.code, first.message)
