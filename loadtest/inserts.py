"""The effect of ``drain --effect transaction``: one row per task in a table of the application."""

from __future__ import annotations

import random

APPLICATION = "loadtest.insert_handler"
NAME = "loadtest_insert"
TABLE = "loadtest_inserts"
CREATE = f"CREATE TABLE IF NOT EXISTS {TABLE} (task_id uuid PRIMARY KEY, filler text NOT NULL)"
TRUNCATE = f"TRUNCATE {TABLE}"
INSERT = f"INSERT INTO {TABLE} (task_id, filler) VALUES ($1, $2)"
COUNT = f"SELECT count(*) FROM {TABLE}"


def payload_filler(payload_bytes: int) -> str:
    """Return what makes a payload of a number and a filler ``payload_bytes`` long."""
    return filler(max(0, payload_bytes - len('{"number":12345,"filler":""}')))


def filler(size: int) -> str:
    """Return ``size`` characters that compress about as well as text does."""
    return random.Random(size).randbytes(size // 2 + 1).hex()[:size]
