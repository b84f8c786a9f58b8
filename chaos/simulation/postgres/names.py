"""Find short stable names for the statements of the product by their text."""

from __future__ import annotations

import re

from sqlalchemy import TextClause

from chaos.tasks import sql as chaos_sql
from holdfast.model.task import TaskFilter
from holdfast.store.listing import listing
from holdfast.store.statements import statements

_PARAMETER = re.compile(r"::\w+(\[\])?|\$\d+|:\w+|\\")
_WORDS = 3
_LENGTH_MAX = 40


class Names:
    """Names SQL texts by their constant in the product (``claim``), else by their first words."""

    def __init__(self) -> None:
        every, _ = listing(TaskFilter(), 1, None, 1)
        self._listing = _normal(every.text).partition(" WHERE")[0]
        self._known: dict[str, str] = {
            _normal(value.text): name.strip("_").lower()
            for name, value in (statements() | vars(chaos_sql)).items()
            if isinstance(value, TextClause)
        }
        self._seen: dict[str, str] = {}

    def of(self, sql: str) -> str:
        """Return the name of a statement as received over the wire."""
        name = self._seen.get(sql)
        if name is None:
            name = self._seen[sql] = self._find(_normal(sql))
        return name

    def _find(self, sql: str) -> str:
        if sql in self._known:
            return self._known[sql]
        if sql.startswith(self._listing):
            return "list"
        return " ".join(re.findall(r"[\w.*]+", sql)[:_WORDS])[:_LENGTH_MAX] or "nothing"


def _normal(sql: str) -> str:
    """Return the text without what differs on the wire: parameters and whitespace."""
    return " ".join(_PARAMETER.sub(" ", sql).split())
