"""Validation of payloads for the built-in handlers."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.handlers.errors import Discard


class Payload(BaseModel):
    """Base of payload models: immutable, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


P = TypeVar("P", bound=Payload)


def parse(model: type[P], name: str, payload: Any) -> P:
    """Validate the payload of a ``name`` task as ``model``.

    Raises:
        Discard: it is invalid; the reason names each field but never its value.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'payload'}: "
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise Discard(f"invalid payload for {name}: {'; '.join(problems)}") from None
