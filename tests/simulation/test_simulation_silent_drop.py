"""Connections that were dropped silently, in the simulated network."""

from __future__ import annotations

import asyncio

from simulated_network import PORT, Echo, Recorder, World, passes

from chaos.scenario.faults import FaultSpec
from chaos.simulation.network.edges import inject_edge_fault

PLAN = FaultSpec.model_validate(
    {"name": "firewall", "fault": "silent_drop", "target": "*->redis", "at": 0, "for": 1}
)


def test_forgotten_connection_swallows_everything_and_new_ones_work() -> None:
    world = World()

    async def main() -> None:
        await world.serve(Echo)
        old, far = await world.connect()
        old.transport.write(b"before")
        await passes()
        world.edge.forget()
        old.transport.write(b"lost")
        far.transport.write(b"lost")
        await passes()
        old.transport.close()
        await passes()
        assert (old.data, far.data) == (b"before", b"before")
        assert "eof" not in far.what, "the server does not learn of the end"
        assert not far.transport.is_closing()
        new, _ = await world.connect()
        new.transport.write(b"new")
        await passes()
        assert new.data == b"new"
        counted = world.edge.counters()
        assert (counted["dropped_messages"], counted["opened"]) == (2, 2)
        world.edge.heal()
        far.transport.write(b"still lost")
        await passes()
        assert old.data == b"before"

    world.run(main)


def test_what_was_lost_before_is_no_evidence() -> None:
    world = World()

    async def main() -> None:
        await world.serve(Echo)
        old, _ = await world.connect()
        world.edge.forget()
        old.transport.write(b"lost before")
        await passes()

        async def hold() -> None:
            await world.connect()

        observed, evidence = await inject_edge_fault(PLAN, (world.edge.name,), world.network, hold)
        assert not observed
        assert evidence == {world.edge.name: {"swallowed": 0, "opened": 1, "left": []}}

    world.run(main)


def test_every_edge_forgets_its_connections() -> None:
    world = World()
    connected, forgotten, reconnected = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def other() -> None:
        address = world.network.host("server")
        old = Recorder()
        await world.loop.create_connection(lambda: old, address, PORT)
        connected.set()
        await forgotten.wait()
        old.transport.write(b"lost")
        await world.loop.create_connection(Recorder, address, PORT)
        reconnected.set()

    async def main() -> None:
        await world.serve(Echo)
        old, _ = await world.connect()
        world.loop.start("other", other)
        await connected.wait()

        async def hold() -> None:
            old.transport.write(b"lost")
            forgotten.set()
            await world.connect()
            await reconnected.wait()

        names = (world.edge.name, "other->server")
        observed, evidence = await inject_edge_fault(PLAN, names, world.network, hold)
        assert observed
        assert evidence == {name: {"swallowed": 1, "opened": 1, "left": []} for name in names}

    world.run(main)
