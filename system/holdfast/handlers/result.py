"""A handler's return value as the JSON text that goes into the ledger."""

from __future__ import annotations

import inspect
from typing import Any

from holdfast.errors import Unstorable
from holdfast.model.payload import PayloadError, PayloadTooLarge, encode


def encode_result(value: Any, max_bytes: int) -> str:
    """JSON text of ``value``, by the same rules as payloads (``holdfast.model.payload``).

    Raises:
        Unstorable: not JSON (an unknown type, NaN, a cycle), text that jsonb refuses (NUL, half
            of a surrogate pair), too deep, or more than ``max_bytes`` of UTF-8.
    """
    try:
        return encode(value, max_bytes)
    except PayloadTooLarge as error:
        raise Unstorable(
            f"the result is more than {max_bytes} bytes of JSON (HOLDFAST_RESULT_BYTES_MAX): "
            "store it elsewhere and return where it is"
        ) from error
    except PayloadError as error:
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise Unstorable(
                "the handler returned something to await: make it `async def`, or await it"
            ) from error
        where = f" at {error.pointer}" if error.pointer else ""
        raise Unstorable(f"the result{where} cannot be stored as JSON: {error}") from error
