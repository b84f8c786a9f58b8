"""What a server refuses before an application sees it: the problems, and their log."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from holdfast.model.problem_type import PROBLEM_MEDIA_TYPE, ProblemType
from holdfast.telemetry.event_names import ErrorCode, EventName
from holdfast.telemetry.log_limit import LogLimit
from holdfast.telemetry.logs import Logger

MALFORMED_REQUEST = ProblemType("malformed-request", 400, "Malformed request")
FOREIGN_ORIGIN = ProblemType("foreign-origin", 403, "Request of another web site")
REQUEST_TIMEOUT = ProblemType("request-timeout", 408, "Request timeout")
MISDIRECTED = ProblemType("misdirected-request", 421, "Misdirected request")
HEAD_TOO_LARGE = ProblemType("head-too-large", 431, "Request head too large")
TOO_MANY_CONNECTIONS = ProblemType("too-many-connections", 503, "Too many connections")

REFUSALS = (
    *(MALFORMED_REQUEST, FOREIGN_ORIGIN, REQUEST_TIMEOUT, MISDIRECTED, HEAD_TOO_LARGE),
    TOO_MANY_CONNECTIONS,
)
LOG_SECONDS = 10.0


def answer(kind: ProblemType, detail: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a refusal."""
    body = json.dumps(kind.body(detail)).encode()
    headers = {
        "content-type": PROBLEM_MEDIA_TYPE,
        "content-length": str(len(body)),
    }
    if kind is TOO_MANY_CONNECTIONS:
        headers["retry-after"] = "1"
    return headers, body


class RefusalLog:
    """The log of one server: one line per kind of refusal and ``LOG_SECONDS``, with a count."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._limits: Mapping[ProblemType, LogLimit] = {
            kind: LogLimit(1, LOG_SECONDS) for kind in REFUSALS
        }
        # For uvicorn's protocol: its errors, without its warnings, which are refusals.
        self.protocol_logger = logging.Logger("uvicorn.error", logging.ERROR)  # noqa: LOG001 - not global
        self.protocol_logger.addHandler(_ProtocolErrors(log))

    def refused(self, kind: ProblemType, detail: str, client: str | None) -> None:
        """Log a refusal; ``detail`` quotes nothing that the client sent."""
        dropped = self._limits[kind].admit()
        if dropped is not None:
            self._log.warning(
                "Request refused",
                event_name=EventName.REQUEST_REFUSED,
                status=kind.status,
                problem=kind.slug,
                detail=detail,
                client=client,
                refused=dropped + 1,
            )


class _ProtocolErrors(logging.Handler):
    def __init__(self, log: Logger) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.exception(
            "HTTP server failed",
            event_name=EventName.HTTP_SERVER_FAILED,
            raised=record.exc_info[1] if record.exc_info else None,
            detail=record.getMessage().strip(),
            error_code=ErrorCode.OTHER,
        )
