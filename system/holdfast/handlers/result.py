"""Encode a handler's return value as the JSON text stored in the ledger."""

from __future__ import annotations

import inspect
from typing import Any

from holdfast.errors import Unstorable
from holdfast.model.payload import PayloadError, PayloadTooLarge, encode


def encode_result(value: Any, max_bytes: int) -> str:
    """Return ``value`` as JSON text, by the rules for payloads (``holdfast.model.payload``).

    Raises:
        Unstorable: not JSON (an unknown type, NaN, a cycle), text that jsonb rejects (NUL, a lone
            surrogate), nested too deeply, or more than ``max_bytes`` of UTF-8.
    """
    try:
        return encode(value, max_bytes).decode()
    except PayloadTooLarge as error:
        raise Unstorable(
            f"the result is more than {max_bytes} bytes of JSON (HOLDFAST_RESULT_BYTES_MAX): "
            "store it elsewhere and return a reference"
        ) from error
    except PayloadError as error:
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise Unstorable(
                "the handler returned an awaitable: make the handler `async def`, or await it"
            ) from error
        where = f" at {error.pointer}" if error.pointer else ""
        raise Unstorable(f"the result{where} cannot be stored as JSON: {error}") from error
