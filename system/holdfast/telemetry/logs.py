"""Structured logs: one line per event, JSON or readable. No payloads, no secrets."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from enum import Enum
from typing import TextIO

from holdfast.telemetry.event_names import ErrorCode, EventName

_COLORS = {"warning": "\33[33m", "error": "\33[31m"}
_COLOR_END = "\33[0m"
_QUOTED = frozenset(" ='\"")  # each would blur where a field of a text line ends


class Logger:
    """Writes lines with its context, each with the constant ``event_name`` of its event.

    A field ``error`` that is an exception is logged as its message, with its ``error_code``.
    Threads may write to one logger: a line is a single write.
    """

    def __init__(
        self, stream: TextIO, level: int, *, text_style: bool, context: dict[str, object]
    ) -> None:
        """``level``: the lowest level that is written, a number as in ``logging``."""
        self._stream = stream
        self._level = level
        self._text_style = text_style
        self._context = context

    def debug(self, text: str, /, *, event_name: EventName, **fields: object) -> None:
        """Write a line for developers."""
        if self._level <= logging.DEBUG:
            self._write("debug", text, {"event_name": event_name, **fields})

    def info(self, text: str, /, *, event_name: EventName, **fields: object) -> None:
        """Write a line about normal work."""
        if self._level <= logging.INFO:
            self._write("info", text, {"event_name": event_name, **fields})

    def warning(self, text: str, /, *, event_name: EventName, **fields: object) -> None:
        """Write a line about trouble that is handled."""
        if self._level <= logging.WARNING:
            self._write("warning", text, {"event_name": event_name, **fields})

    def error(self, text: str, /, *, event_name: EventName, **fields: object) -> None:
        """Write a line about a failure."""
        if self._level <= logging.ERROR:
            self._write("error", text, {"event_name": event_name, **fields})

    def exception(
        self,
        text: str,
        /,
        *,
        event_name: EventName,
        raised: BaseException | None = None,
        **fields: object,
    ) -> None:
        """Write a failure with the traceback of ``raised``, or else of the one being handled."""
        # Without locals: they hold payloads.
        lines = traceback.format_exception(sys.exception() if raised is None else raised)
        self.error(text, event_name=event_name, **fields, exception="".join(lines).rstrip())

    def bind(self, **context: object) -> Logger:
        """Return a logger that adds ``context`` to every line."""
        return Logger(
            self._stream,
            self._level,
            text_style=self._text_style,
            context={**self._context, **context},
        )

    def is_enabled_for(self, level: int) -> bool:
        """Whether lines of this level are written."""
        return self._level <= level

    def _write(self, level: str, text: str, fields: dict[str, object]) -> None:
        fields = _plain_values({**self._context, **fields})
        timestamp = _now()
        if self._text_style:
            line = self._text_line(timestamp, level, text, fields)
        else:
            line = json.dumps(
                {**fields, "event": text, "level": level, "timestamp": timestamp}, default=repr
            )
        self._stream.write(line + "\n")
        self._stream.flush()

    def _text_line(self, timestamp: str, level: str, text: str, fields: dict[str, object]) -> str:
        exception = fields.pop("exception", None)
        tag = f"[{level:7}]"
        if level in _COLORS and self._stream.isatty():
            tag = f"{_COLORS[level]}{tag}{_COLOR_END}"
        shown = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
        line = f"{timestamp} {tag} {text:30} {shown}"
        return line if exception is None else f"{line}\n{exception}"


def create_logger(
    *, level: str = "INFO", style: str = "auto", stream: TextIO | None = None, **context: object
) -> Logger:
    """Create a logger with ``context`` on every line; nothing global is configured.

    ``style``: "json", "text", or "auto" for text on a terminal and JSON elsewhere.
    """
    target = stream or sys.stderr
    text_style = style == "text" or (style == "auto" and target.isatty())
    lowest = logging.getLevelNamesMapping()[level]
    return Logger(target, lowest, text_style=text_style, context=context)


def _plain_values(fields: dict[str, object]) -> dict[str, object]:
    """Replace an exception by its message and code, and enum members by their values."""
    error = fields.get("error")
    if isinstance(error, BaseException):
        code = getattr(error, "code", None)  # SQLAlchemy's exceptions have one of their own kind
        fields["error"] = str(error) or type(error).__name__
        fields["error_code"] = code if isinstance(code, ErrorCode) else ErrorCode.OTHER
    return {key: value.value if isinstance(value, Enum) else value for key, value in fields.items()}


def _shown(value: object) -> str:
    """Quote what could be mistaken for the end of the value, or move the cursor of a terminal."""
    plain = isinstance(value, str) and value and value.isprintable() and not _QUOTED & {*value}
    return str(value) if plain else repr(value)


def _now() -> str:
    now = datetime.now(UTC)  # noqa: TID251 - for people, never compared with the database's clock
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")
