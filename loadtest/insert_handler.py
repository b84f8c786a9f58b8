"""The application of ``drain --effect transaction``: one INSERT per task by ``ctx.transaction()``.

``durations`` in the payload names a file, to which the handler appends its seconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import text

from holdfast import Context, task
from loadtest.inserts import NAME, TABLE

_INSERT = text(f"INSERT INTO {TABLE} (task_id, filler) VALUES (:task_id, :filler)")


@task(NAME)
async def insert(ctx: Context, payload: dict[str, Any]) -> None:
    """Insert one row together with the success of its task."""
    began = time.perf_counter()
    async with ctx.transaction() as tx:
        await tx.execute(_INSERT, {"task_id": ctx.task_id, "filler": payload["filler"]})
    if file := payload.get("durations"):
        with Path(file).open("a") as durations:
            durations.write(f"{time.perf_counter() - began}\n")
