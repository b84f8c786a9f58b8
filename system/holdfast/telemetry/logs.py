"""Structured logs: one line per event, JSON or readable. No payloads, no secrets."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from typing import Protocol, Self, TextIO

import structlog

from holdfast.telemetry.event_names import ErrorCode, EventName

# Without locals: they hold payloads.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


class Logger(Protocol):
    """Type of structlog's logger under which no line can be written without ``event_name``.

    A field ``error`` that is an exception is logged as its message, with its ``error_code``.
    """

    def debug(self, text: str, /, *, event_name: EventName, **fields: object) -> None: ...

    def info(self, text: str, /, *, event_name: EventName, **fields: object) -> None: ...

    def warning(self, text: str, /, *, event_name: EventName, **fields: object) -> None: ...

    def error(self, text: str, /, *, event_name: EventName, **fields: object) -> None: ...

    def exception(self, text: str, /, *, event_name: EventName, **fields: object) -> None: ...

    def bind(self, **context: object) -> Self: ...

    def is_enabled_for(self, level: int) -> bool: ...


def create_logger(
    *, level: str = "INFO", style: str = "auto", stream: TextIO | None = None, **context: object
) -> Logger:
    """Create a logger with ``context`` on every line; nothing global is configured.

    ``style``: "json", "text", or "auto" for text on a terminal and JSON elsewhere.
    """
    target = stream or sys.stderr
    text = style == "text" or (style == "auto" and target.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if text
        else structlog.processors.JSONRenderer()
    )
    logger: Logger = structlog.wrap_logger(
        structlog.WriteLogger(target),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plain_values,
            *([] if text else [_TRACEBACKS]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    return logger.bind(**context)


def _plain_values(
    _logger: structlog.typing.WrappedLogger, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Replace an exception by its message and code, and enum members by their values."""
    error = fields.get("error")
    if isinstance(error, BaseException):
        code = getattr(error, "code", None)  # SQLAlchemy's exceptions have one of their own kind
        fields["error"] = str(error)
        fields["error_code"] = code if isinstance(code, ErrorCode) else ErrorCode.OTHER
    for key, value in fields.items():
        if isinstance(value, Enum):
            fields[key] = value.value
    return fields
