"""Payloads of the built-in handlers, checked before anything is done."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.handlers.errors import Discard


class Payload(BaseModel):
    """Base: unknown fields are mistakes, and a checked payload does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


P = TypeVar("P", bound=Payload)


def parse(model: type[P], name: str, payload: Any) -> P:
    """The payload of a ``name`` task as ``model``.

    Raises:
        Discard: it does not fit; the reason names each field and never repeats its value.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'payload'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise Discard(f"{name} cannot use this payload: {'; '.join(problems)}") from None
