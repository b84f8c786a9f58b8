"""Enqueue a task inside your own SQLAlchemy transaction: it exists if, and only if, you commit.

There is no moment at which the order is stored and its task is not, or the other way round.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, create_engine, text

from holdfast import Context, enqueue, task


@task("confirm_order")
async def confirm_order(ctx: Context, payload: dict[str, Any]) -> str:
    """Run once the order is committed, never for an order that was rolled back."""
    return f"order {payload['order']} confirmed"


def place_order(connection: Connection, item: str, pieces: int) -> UUID:
    """Insert an order and enqueue its confirmation in the caller's transaction."""
    order = connection.execute(
        text("INSERT INTO orders (item, pieces) VALUES (:item, :pieces) RETURNING id"),
        {"item": item, "pieces": pieces},
    ).scalar_one()
    task_id = enqueue(
        connection, "confirm_order", {"order": order}, idempotency_key=f"confirm-order-{order}"
    )
    if pieces < 1:
        raise ValueError("an order needs at least one piece")  # neither order nor task is stored
    return task_id


if __name__ == "__main__":
    # The database of Holdfast: `set -a; . .holdfast/environment` after `make up`.
    engine = create_engine(os.environ["HOLDFAST_DATABASE_URL"])
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY,"
                " item text NOT NULL, pieces int NOT NULL)"
            )
        )
    try:
        with engine.begin() as connection:
            print("task", place_order(connection, sys.argv[1], int(sys.argv[2])))
    except ValueError as error:
        print("rolled back:", error)
    engine.dispose()
