"""uvicorn's HTTP protocol with bounds: on heads, on time and on connections.

uvicorn itself bounds none of them before a first answer, so that any client, with or without an API
key, could take all of the memory, the processor or the connections of a process.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from holdfast.model.problem_type import ProblemType
from holdfast.runtime import refusals
from holdfast.runtime.refusals import RefusalLog

HEAD_BYTES_MAX = 64 * 1024
WAITING_MAX = 100
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0
STALL_SECONDS = 30.0
LINGER_SECONDS = 1.0
_FIELD_BYTES = 4  # ": " and the end of the line


class RequestRefused(Exception):
    """Makes the parser stop."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to a large head, 408 to a slow request, 503 beyond ``connections_max``.

    A client that stops to read its answer is disconnected, as is one with more than ``WAITING_MAX``
    requests that wait for the answer to an earlier one. Trailers and chunk extensions count as
    parts of the head. A connection with an unanswered request is closed without an answer, which
    the client would take for the answer to that request.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections_max: int,
        refusal_log: RefusalLog,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = refusal_log.protocol_logger
        self._connections_max = connections_max
        self._refusal_log = refusal_log
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._refused = False
        self._begun = False  # a request has begun to arrive
        self._in_head = True  # or between two requests
        self._head_bytes = 0  # of the URL, and of complete header fields and trailers
        self._unparsed_bytes = 0  # received since the parser found the end of anything

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._connections_max:
            detail = f"The server has its maximum of {self._connections_max} connections."
            self._refuse(refusals.TOO_MANY_CONNECTIONS, detail)
            transport.close()
        else:
            self._read_within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_reading_timer()
        self._stop_writing_timer()

    # What arrives.

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head and self._reading is None:
            self._read_within(HEAD_SECONDS)
        self._unparsed_bytes += len(data)
        super().data_received(data)
        # What follows the end of something in one read is not counted: it is bounded.
        if self._unparsed_bytes > HEAD_BYTES_MAX:
            self._refuse_head()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= WAITING_MAX:
            raise RequestRefused
        super().on_message_begin()
        self._begun = True
        self._unparsed_bytes = 0
        self._read_within(HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + _FIELD_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        self._read_within(BODY_SECONDS)

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._begun = False
        self._in_head = True
        self._head_bytes = self._unparsed_bytes = 0
        self._stop_reading_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refused."""
        if max(self._head_bytes, self._unparsed_bytes) > HEAD_BYTES_MAX:
            self._refuse_head()
        elif len(self.pipeline) >= WAITING_MAX:
            detail = f"More than {WAITING_MAX} requests of a connection wait for an earlier one."
            self._refuse(refusals.MALFORMED_REQUEST, detail)
        else:
            self._refuse(refusals.MALFORMED_REQUEST, "The request is not valid HTTP/1.1.")

    def _count(self, size: int) -> None:
        self._unparsed_bytes = 0
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise RequestRefused

    def _read_within(self, seconds: float) -> None:
        self._stop_reading_timer()
        self._reading = self.loop.call_later(seconds, self._read_expired, seconds)

    def _read_expired(self, seconds: float) -> None:
        if self.flow.read_paused or (self._in_head and self._is_answering()):
            self._read_within(seconds)  # the application is late, not the client
        elif not self._begun:
            self.transport.close()  # idle: it began no request
        else:
            part = "head" if self._in_head else "body"
            detail = f"The {part} of the request did not arrive within {seconds:g} s."
            self._refuse(refusals.REQUEST_TIMEOUT, detail)

    def _stop_reading_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    # What leaves.

    def on_response_complete(self) -> None:
        """Read on once no request waits: uvicorn reads after each answer, whatever waits."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_writing_timer()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; what the client does not read must not keep it open."""
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def _watch_writing(self) -> None:
        self._stop_writing_timer()
        unsent_bytes = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(STALL_SECONDS, self._write_stalled, unsent_bytes)

    def _write_stalled(self, unsent_bytes: int) -> None:
        if self.transport.get_write_buffer_size() < unsent_bytes:
            self._watch_writing()
        else:
            self.transport.abort()

    def _stop_writing_timer(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    # Refusals.

    def _refuse_head(self) -> None:
        detail = f"The URL and the headers exceed {HEAD_BYTES_MAX} bytes."
        self._refuse(refusals.HEAD_TOO_LARGE, detail)

    def _refuse(self, kind: ProblemType, detail: str) -> None:
        """Answer if possible, and close. What still arrives is discarded for a while.

        A connection closed with unread data would be reset, and the answer lost.
        """
        if self._refused:
            return
        self._refused = True
        self._stop_reading_timer()
        self._refusal_log.refused(kind, detail, self.client[0] if self.client else None)
        if not self._is_answerable():
            self.transport.close()
            return
        if self.cycle is not None:  # the application's answer would be a second one
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        headers, body = refusals.answer(kind, detail)
        fields = [
            *self.server_state.default_headers,
            *((name.encode(), value.encode()) for name, value in headers.items()),
            (b"connection", b"close"),
        ]
        lines = [b"HTTP/1.1 %d %s" % (kind.status, HTTPStatus(kind.status).phrase.encode())]
        lines += [name + b": " + value for name, value in fields]
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.write_eof()
        self._reading = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _is_answerable(self) -> bool:
        """Whether an answer written now is the answer to the refused request."""
        if self._in_head:
            return not self._is_answering()
        return not self.pipeline and not self.cycle.response_started

    def _is_answering(self) -> bool:
        if self.cycle is None:
            return False
        return not self.cycle.response_complete
