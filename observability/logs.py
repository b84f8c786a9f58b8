"""Structured logs: one line per event, JSON or readable. No payloads, no secrets."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

# Without locals: they hold payloads.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def create_logger(
    *, level: str = "INFO", style: str = "auto", stream: TextIO | None = None, **context: object
) -> structlog.stdlib.BoundLogger:
    """A logger of its own (nothing global is configured) with ``context`` on every line.

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
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(target),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if text else [_TRACEBACKS]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    return logger.bind(**context)
