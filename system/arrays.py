"""Arrays as parameters: what asyncpg would ask Postgres about them on every new connection.

It knows all types that come with Postgres but their arrays; for these it sends a catalogue query
first: four round trips and 5 ms of the server's CPU for each connection, when all reconnect at once
after an outage too, and it leaves ``jit`` off in the session.
"""

from __future__ import annotations

import contextlib
from typing import Any

# What the query would return; these numbers (pg_type.oid) are the same in every Postgres.
_TYPES = tuple(
    {
        "oid": oid, "ns": "pg_catalog", "name": f"_{element}", "kind": b"b", "basetype": None,
        "elemtype": element_oid, "elemdelim": ",", "range_subtype": None, "attrtypoids": None,
        "attrnames": None,
    }
    for oid, element, element_oid in (
        (1001, "bytea", 17), (1007, "int4", 23), (1022, "float8", 701),
        (1185, "timestamptz", 1184), (2951, "uuid", 2950),
    )
)  # fmt: skip


def introduce(connection: Any, _: object = None) -> None:
    """Tells a new connection of asyncpg (as SQLAlchemy adapts it), so that it need not ask."""
    # There is no public way; an asyncpg that has not this one asks, as before.
    with contextlib.suppress(AttributeError):
        protocol = connection.driver_connection._protocol  # noqa: SLF001
        protocol.get_settings().register_data_types(_TYPES)
