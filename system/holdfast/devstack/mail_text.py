"""Read what is shown of a received mail, at a cost that its sender does not choose.

Python's newer parser of headers, of `email.policy.default`, takes time and memory quadratic in a
header: a subject of 4 MB took 19 GB. The older one, which is used here, is linear in most of what a
mail may have, and quadratic in a header of MIME; so only the first ``READ_BYTES_MAX`` are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import HeaderParser

from holdfast.handlers.builtin.foreign_text import decode

READ_BYTES_MAX = 256 * 1024
BODY_CHARACTERS_MAX = 64 * 1024
LINE_CHARACTERS_MAX = 1000  # of a subject and other lines
_LINE_READ_MAX = 4 * LINE_CHARACTERS_MAX  # encoded words are longer than what they say


@dataclass(frozen=True)
class MailText:
    """What is shown of a mail; ``truncated`` if its body is longer than what was read."""

    subject: str
    message_id: str
    body: str
    truncated: bool


def read(content: bytes) -> MailText:
    """Return what is shown of a mail: whatever it holds, with replacements for what is invalid."""
    start = content[:READ_BYTES_MAX]
    headers = HeaderParser().parsestr(start.decode("utf-8", errors="replace"))
    body = _body(start)
    return MailText(
        subject=_line(headers, "Subject"),
        message_id=_line(headers, "Message-ID").strip(),
        body=body[:BODY_CHARACTERS_MAX],
        truncated=len(body) > BODY_CHARACTERS_MAX or len(content) > READ_BYTES_MAX,
    )


def _line(headers: Message, name: str) -> str:
    text = "".join(str(headers.get(name, "")).splitlines())[:_LINE_READ_MAX]
    try:
        parts = decode_header(text)
    except HeaderParseError:
        parts = [(text, None)]
    decoded = (part if isinstance(part, str) else decode(part, charset) for part, charset in parts)
    return "".join(decoded)[:LINE_CHARACTERS_MAX]


def _body(start: bytes) -> str:
    """Return the plain text of a mail, else its HTML, else nothing."""
    try:
        leaves = [part for part in message_from_bytes(start).walk() if not part.is_multipart()]
    except RecursionError:  # parts within parts within parts
        return ""
    for kind in ("text/plain", "text/html"):
        for part in leaves:
            if part.get_content_type() == kind and part.get_content_disposition() != "attachment":
                data = part.get_payload(decode=True)
                return decode(data if isinstance(data, bytes) else b"", part.get_content_charset())
    return ""
