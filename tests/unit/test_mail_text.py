"""What is shown of a mail, and that reading it costs little, whatever it holds."""

from __future__ import annotations

import subprocess
import sys
from email.header import Header
from email.message import EmailMessage

import pytest

from holdfast.devstack.mail_text import BODY_CHARACTERS_MAX, LINE_CHARACTERS_MAX, read

SIZE = 400_000
MEMORY_BYTES = 32 << 20
PROCESSOR_SECONDS = 4
FOLD = b"\r\n "


def repeated(before: bytes, unit: bytes, after: bytes, *, joint: bytes = FOLD) -> bytes:
    return before + joint.join([unit] * (SIZE // len(unit + joint))) + after


def parts(kind: bytes) -> bytes:
    head = b'Subject: s\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
    part = b"--b\r\nContent-Type: " + kind + b"\r\n\r\nx\r\n"
    return repeated(head, part, b"--b--\r\n", joint=b"")


def nested() -> bytes:
    one = b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n'
    return b"Subject: s\r\n" + b"".join(one % (n, n) for n in range(SIZE // 60)) + b"\r\nx"


# Each took minutes, gigabytes or an exception with the parser of email.policy.default.
HOSTILE = {
    "encoded words": repeated(b"Subject: ", b"=?utf-8?q?=41=41?=", b"\r\n\r\nx"),
    "words": repeated(b"Subject: ", b"a " * 400, b"\r\n\r\nx"),
    "a dotted id": repeated(b"Message-ID: <", b"m." * 400, b"@x>\r\n\r\nx"),
    "a quoted id": repeated(b"Message-ID: <", b'"a"' * 300, b"@x>\r\n\r\nx"),
    "comments": repeated(b"Message-ID: <", b"(" * 900, b"\r\n\r\nx"),
    "headers": repeated(b"Subject: s\r\n", b"a: b", b"\r\n\r\nx", joint=b"\r\n"),
    "parameters": repeated(b"Content-Type: text/plain; ", b"a=b;" * 200, b"\r\n\r\nx"),
    "comments of a type": repeated(b"Content-Type: text/plain; ", b"(" * 900, b"\r\n\r\nx"),
    "parts": parts(b"text/plain"),
    "attachments": parts(b"image/gif"),
    "nested parts": nested(),
    "nested mails": repeated(b"", b"Content-Type: message/rfc822\r\n\r\n", b"x", joint=b""),
}


# In a process with limits: a parser without bounds would take all memory of the machine.
READ = f"""
import resource, sys
from holdfast.devstack.mail_text import read
resource.setrlimit(resource.RLIMIT_CPU, ({PROCESSOR_SECONDS}, {PROCESSOR_SECONDS}))
grown = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + {MEMORY_BYTES}
resource.setrlimit(resource.RLIMIT_AS, (grown, grown))
text = read(sys.stdin.buffer.read())
assert text.truncated
assert max(len(text.subject), len(text.message_id)) <= {LINE_CHARACTERS_MAX}
"""


@pytest.mark.stack
@pytest.mark.parametrize("name", HOSTILE)
def test_reading_costs_little(name: str) -> None:
    argv = [sys.executable, "-c", READ]
    done = subprocess.run(argv, input=HOSTILE[name], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("head", "body", "shown"),
    [
        ("Subject: s", b"plain", "plain"),
        ("Content-Type: text/plain; charset=iso-8859-1", b"\xe9", "\u00e9"),
        ("Content-Type: text/plain; charset=utf-16", "\u00e9".encode("utf-16"), "\u00e9"),
        ("Content-Type: text/plain; charset=undefined", b"a\xff", "a\ufffd"),
        ("Content-Type: text/plain; charset=idna", b"a", "a"),
        ("Content-Type: text/plain; charset=zlib", b"a", "a"),
        ("Content-Transfer-Encoding: quoted-printable", b"=C3=A9=\r\n!", "\u00e9!"),
        ("Content-Transfer-Encoding: base64", b"w6k=", "\u00e9"),
        ("Content-Transfer-Encoding: base64", b"!", ""),
        ("Content-Type: text/html", b"<b>", "<b>"),
        ("Content-Type: image/gif", b"GIF", ""),
        ("Content-Type: multipart/mixed", b"no boundary", ""),
        ("Content-Disposition: attachment", b"a", ""),
    ],
)
def test_bodies(head: str, body: bytes, shown: str) -> None:
    assert read(f"{head}\r\n\r\n".encode() + body).body == shown


def test_plain_text_is_preferred_to_html_and_attachments() -> None:
    message = EmailMessage()
    message["Subject"] = "b\u00fccher " * 30
    message["Message-ID"] = "<1@example.com>"
    message.set_content("the text\n")
    message.add_alternative("<p>the page</p>", subtype="html")
    message.add_attachment("a file", filename="a.txt")
    text = read(message.as_bytes())
    assert text.subject == str(message["Subject"])
    assert (text.message_id, text.body.strip()) == ("<1@example.com>", "the text")
    assert text.truncated is False


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (Header("\u00e9 " * 60, "utf-8").encode().encode(), "\u00e9 " * 60),
        ("\u00e9".encode(), "\u00e9"),
        (b"=?utf-8?b?w6k?=", "\u00e9"),
        (b"=?utf-8?b?a?=", "=?utf-8?b?a?="),
        (b"=?undefined?q?=41?=", "A"),
        (b"=?iso-8859-1?q?=E9?= and more", "\u00e9 and more"),
        (b"a\0b", "a\0b"),
        (b"s" * 5000, "s" * LINE_CHARACTERS_MAX),
    ],
)
def test_subjects(raw: bytes, shown: str) -> None:
    assert read(b"Subject: " + raw + b"\r\n\r\nx").subject == shown


def test_long_bodies_are_read_in_part() -> None:
    text = read(b"Subject: s\r\n\r\n" + b"z\r\n" * BODY_CHARACTERS_MAX)
    assert (len(text.body), text.truncated) == (BODY_CHARACTERS_MAX, True)
