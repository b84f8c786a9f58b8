"""Connections that were dropped silently, in the simulated network."""

from __future__ import annotations

from simulated_network import Echo, World, passes


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
