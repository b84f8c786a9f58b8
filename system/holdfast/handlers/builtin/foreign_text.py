"""Decode text whose charset a stranger named: a server's response, a received mail."""

from __future__ import annotations

import codecs

# Python has more codecs; some of them fail, run code paths in quadratic time or yield text that
# cannot be stored.
_CHARSETS = frozenset(
    {
        *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "ascii", "koi8-r"),
        *("iso8859-1", *(f"iso8859-{part}" for part in range(2, 17) if part != 12)),
        *(f"cp{page}" for page in range(1250, 1259)),
        *("gb2312", "gbk", "gb18030", "big5", "shift_jis", "cp932", "euc_jp", "euc_kr"),
    }
)


def decode(data: bytes, charset: str | None) -> str:
    """Return the text; undecodable bytes and NUL become U+FFFD.

    It never fails. An unknown charset is read as UTF-8, as is none.
    """
    try:
        name = codecs.lookup(charset or "utf-8").name
    except (LookupError, ValueError):
        name = "utf-8"
    text = data.decode(name if name in _CHARSETS else "utf-8", errors="replace")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
