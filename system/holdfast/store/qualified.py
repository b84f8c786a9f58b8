"""The Postgres schema of Holdfast's tables, which leaves all other names to the application.

Statements are written with the default, ``holdfast.tasks``, and never depend on the search_path of
a session or a caller: an application may have a table of the same name in the same database.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sqlalchemy import TextClause, text

SCHEMA = "holdfast"
_QUALIFIER = re.compile(rf"\b{SCHEMA}\.(?=[a-z])")
_STATEMENTS_MAX = 256


def in_schema(statement: TextClause, schema: str) -> TextClause:
    """Return the statement for the tables of ``schema``, which is a valid identifier."""
    return statement if schema == SCHEMA else _moved(statement, schema)


@lru_cache(_STATEMENTS_MAX)
def _moved(statement: TextClause, schema: str) -> TextClause:
    return text(_QUALIFIER.sub(f'"{schema}".', statement.text))
