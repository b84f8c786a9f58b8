"""An effect in SQL that happens exactly once: ``ctx.transaction()``.

The handler's statements and the task's success commit together, or not at all. An attempt that
fails, is killed or loses its lease inside the block leaves nothing behind.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from sqlalchemy import create_engine, text

from holdfast import Context, Discard, enqueue, task

ADD = text("UPDATE accounts SET cents = cents + :cents WHERE owner = :owner RETURNING cents")


@task("transfer", max_attempts=3)
async def transfer(ctx: Context, payload: dict[str, Any]) -> None:
    """Move money between two accounts."""
    async with ctx.transaction() as tx:
        debit = {"owner": payload["source"], "cents": -payload["cents"]}
        left = (await tx.execute(ADD, debit)).scalar_one()
        if left < 0:
            raise Discard("insufficient funds")  # rolls back; no retry could help
        if ctx.attempt == 1:
            raise ConnectionError("the first attempt fails halfway, on purpose")  # rolls back
        credit = {"owner": payload["target"], "cents": payload["cents"]}
        await tx.execute(ADD, credit)
        tx.result = {"left": left}


if __name__ == "__main__":
    # The database of Holdfast: `set -a; . .holdfast/environment` after `make up`.
    engine = create_engine(os.environ["HOLDFAST_DATABASE_URL"])
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS accounts (owner text PRIMARY KEY, cents bigint)")
        )
        connection.execute(
            text("INSERT INTO accounts VALUES ('ann', 1000), ('bob', 0) ON CONFLICT DO NOTHING")
        )
        order = {"source": "ann", "target": "bob", "cents": int(sys.argv[1])}
        print("task", enqueue(connection, "transfer", order))
    engine.dispose()
