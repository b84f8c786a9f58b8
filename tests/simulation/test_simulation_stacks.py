"""Each simulated process has a separate stack."""

from __future__ import annotations

import asyncio
import os

from sqlalchemy.util import await_only, greenlet_spawn

from chaos.simulation.kernel.loop import SimulationLoop


def test_process_that_ends_itself_does_not_affect_other_stacks() -> None:
    """The parent of a greenlet is the stack on which it started; on a shared stack it died with
    another process (found by poison_task, seed 17, in calls of SQLAlchemy).
    """
    loop = SimulationLoop(7)
    begun: list[asyncio.Event] = []

    async def calls() -> int:
        begun.append(asyncio.Event())

        def work() -> int:
            await_only(begun[0].wait())
            return 5

        return int(await greenlet_spawn(work))

    async def ends_itself() -> None:
        os._exit(9)

    async def main() -> tuple[int, int]:
        caller = loop.start("caller", calls)
        await asyncio.sleep(1)
        code = await loop.start("victim", ends_itself).wait()
        begun[0].set()
        return code, await caller.wait()

    assert loop.run(main) == (9, 5)
    assert not loop.nodes[1].output
    loop.dispose()
