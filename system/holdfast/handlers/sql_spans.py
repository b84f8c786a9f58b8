"""Spans of the handlers' SQL, by OpenTelemetry's conventions for databases.

Values are never recorded: parameters are not read, and literals are removed from the text.
"""

from __future__ import annotations

import re
import time
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue
from sqlalchemy import URL, Connection, ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.store.database import sqlstate
from holdfast.telemetry.trace_context import FinishedSpan
from holdfast.telemetry.tracing import Tracing

_BEGAN = "holdfast_statement_began"
_TEXT_CHARACTERS_MAX = 2_000
_LITERAL = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|(?<![\w$.])\d+(?:\.\d+)?\b", re.DOTALL)


class SqlSpans:
    """Listens to an engine and records each statement sent while a span is current.

    Holdfast's own statements in the transaction go to the driver and are not seen here.
    """

    def __init__(self, tracing: Tracing, engine: AsyncEngine) -> None:
        self._tracing = tracing
        self._of_database = database_attributes(engine.url)
        event.listen(engine.sync_engine, "before_cursor_execute", self._before)
        event.listen(engine.sync_engine, "after_cursor_execute", self._after)
        event.listen(engine.sync_engine, "handle_error", self._failed)

    def _before(self, connection: Connection, *sent: Any) -> None:
        *_, context, _ = sent
        if trace.get_current_span().get_span_context().is_valid:
            setattr(context, _BEGAN, time.time_ns())

    def _after(self, connection: Connection, *sent: Any) -> None:
        _, statement, _, context, _ = sent
        self._record(context, statement, None)

    def _failed(self, context: ExceptionContext) -> None:
        if context.execution_context is not None and context.statement is not None:
            error = context.sqlalchemy_exception or context.original_exception
            self._record(context.execution_context, context.statement, error)

    def _record(self, executed: object, statement: str, error: BaseException | None) -> None:
        # Not in the connection's info, which a connection in preparation does not have.
        began = getattr(executed, _BEGAN, None)
        if began is None:
            return
        setattr(executed, _BEGAN, None)  # an error while rows are fetched is no second statement
        operation = statement.split(maxsplit=1)[0].upper()
        attributes = {
            **self._of_database,
            "db.operation.name": operation,
            "db.query.text": without_literals(statement),
        }
        if error is not None and (code := sqlstate(error)):
            attributes["db.response.status_code"] = code
        parent = trace.get_current_span().get_span_context()
        self._tracing.record(
            FinishedSpan(
                operation,
                self._tracing.child(parent),
                parent,
                began,
                time.time_ns(),
                SpanKind.CLIENT,
                attributes,
                error=type(error).__name__ if error is not None else None,
            )
        )


def database_attributes(url: URL) -> dict[str, AttributeValue]:
    """Return the attributes that identify the database."""
    attributes: dict[str, AttributeValue] = {
        "db.system.name": "postgresql",
        "db.namespace": url.database or "",
        "server.address": url.host or "",
    }
    if url.port is not None:
        attributes["server.port"] = url.port
    return attributes


def without_literals(statement: str) -> str:
    """Return the text with ``?`` for each string and number; placeholders are kept."""
    return _LITERAL.sub("?", statement)[:_TEXT_CHARACTERS_MAX]
