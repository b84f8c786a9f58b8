"""All statements of the roles by name, for those who examine or name each of them."""

from __future__ import annotations

from sqlalchemy import TextClause

from holdfast.store import scans, single, submit, transitions


def statements() -> dict[str, TextClause]:
    """Return the statements by their constants' names, in lower case; without the listing's."""
    return {
        name.strip("_").lower(): value
        for module in (transitions, single, scans, submit)
        for name, value in vars(module).items()
        if isinstance(value, TextClause)
    }
