"""Turn pydantic's validation errors into lines with place, problem and allowed values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return a hint if a similar name is allowed, then the list of allowed names."""
    options = list(allowed)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{hint}; allowed: {', '.join(options) or 'nothing'}"


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per error: ``key.path: problem``."""
    return [_line(each, model) for each in error.errors(include_url=False)]


def _line(complaint: Any, model: type[BaseModel]) -> str:
    place = complaint["loc"]
    where = ".".join(str(part) for part in place)
    message = complaint["msg"].removeprefix("Value error, ")
    if complaint["type"] == "extra_forbidden":
        owner = _owner(place[:-1], model)
        keys = [field.alias or name for name, field in owner.model_fields.items()]
        message = f"no such key{did_you_mean(str(place[-1]), keys)}"
    elif complaint["type"] not in {"value_error", "missing"}:
        message = f"{message}, not {complaint['input']!r}"
    return f"{where}: {message}" if where else message


def _owner(place: tuple[int | str, ...], model: type[BaseModel]) -> type[BaseModel]:
    """Return the model that the path leads to."""
    for part in place:
        if isinstance(part, int):
            continue
        for name, field in model.model_fields.items():
            if part in {name, field.alias}:
                found = _model_in(field.annotation)
                model = found or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
