"""The simulated loop: asyncio in virtual time, in an order drawn from the seed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from unittest import mock

import pytest

from chaos.simulation.kernel.loop import SimulationLoop, Stuck
from chaos.simulation.kernel.node import current_node


@pytest.fixture
def loop() -> Iterator[SimulationLoop]:
    loop = SimulationLoop(7)
    yield loop
    loop.dispose()


def never() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def forever() -> None:
    await never()


def test_virtual_hour_is_instant_and_returns_the_result(loop: SimulationLoop) -> None:
    async def main() -> str:
        await asyncio.sleep(3600)
        return "done"

    assert loop.run(main) == "done"
    assert 3600 < loop.time() < 3600.001


def test_exception_of_the_harness_propagates(loop: SimulationLoop) -> None:
    async def main() -> None:
        await asyncio.sleep(1)
        raise ValueError("of the harness")

    with pytest.raises(ValueError, match="of the harness"):
        loop.run(main)


def test_simultaneous_timers_fire_in_creation_order(loop: SimulationLoop) -> None:
    order: list[int] = []

    async def main() -> None:
        instant = loop.time() + 1
        for number in range(50):
            loop.call_at(instant, order.append, number)
        await asyncio.sleep(2)

    loop.run(main)
    assert order == list(range(50))


def test_cancelled_timeouts_do_not_affect_others(loop: SimulationLoop) -> None:
    async def main() -> float:
        async def quick() -> None:
            for _ in range(100):
                async with asyncio.timeout(60):
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(quick())
            waiting = group.create_task(asyncio.wait_for(asyncio.Event().wait(), 5))
            with contextlib.suppress(TimeoutError):
                await asyncio.shield(waiting)
            return loop.time()
        raise AssertionError

    with pytest.raises(ExceptionGroup) as caught:
        loop.run(main)
    assert caught.group_contains(TimeoutError)
    assert 5 < loop.time() < 5.1
    assert len(loop._timers) < 200


class TestStuck:
    def test_deadlock_error_names_waiting_tasks(self, loop: SimulationLoop) -> None:
        async def inner() -> None:
            await never()

        async def process() -> None:
            await inner()

        async def main() -> None:
            await loop.start("worker-1", process).wait()

        with pytest.raises(Stuck, match="nothing is left to run") as caught:
            loop.run(main)
        text = str(caught.value)
        assert "<worker-1 #1 running>: worker-1 at simulation/test_simulation_loop.py:" in text
        assert "inner" in text
        assert "harness at kernel/node.py" in text

    def test_timers_of_dead_nodes_are_ignored(self, loop: SimulationLoop) -> None:
        async def main() -> None:
            node = loop.start("n", lambda: asyncio.sleep(1000))
            await asyncio.sleep(1)
            loop.kill(node)
            await never()

        with pytest.raises(Stuck):
            loop.run(main)
        assert loop.time() < 2

    @pytest.mark.parametrize("pause", [0, 0.1])
    def test_virtual_time_is_limited(self, loop: SimulationLoop, pause: float) -> None:
        async def main() -> None:
            while True:
                await asyncio.sleep(pause)

        with pytest.raises(Stuck, match="not finished at"):
            loop.run(main, max_seconds=0.01 if not pause else 60)


class TestOrder:
    def test_seeds_differ_in_the_order_of_processes(self) -> None:
        def order(seed: int) -> str:
            seen: list[str] = []

            async def main() -> None:
                async def process() -> None:
                    seen.append(current_node().name)

                for node in [seeded.start(name, process) for name in "abcdef"]:
                    await node.wait()

            seeded = SimulationLoop(seed)
            seeded.run(main)
            seeded.dispose()
            return "".join(seen)

        orders = {order(seed) for seed in range(20)}
        assert len(orders) > 10
        assert order(3) == order(3)

    def test_tasks_cancelled_together_run_in_creation_order(self, loop: SimulationLoop) -> None:
        order: list[int] = []

        async def waits(number: int) -> None:
            try:
                await never()
            finally:
                order.append(number)

        async def main() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1), asyncio.TaskGroup() as group:
                    for number in range(200):
                        group.create_task(waits(number))

        loop.run(main)
        assert order == list(range(200))

    def test_task_names_do_not_depend_on_earlier_runs(self) -> None:
        def names() -> list[str]:
            async def main() -> list[str]:
                tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(3)]
                return [task.get_name() for task in tasks]

            fresh = SimulationLoop(1)
            result = fresh.run(main)
            fresh.dispose()
            return result

        assert names() == names()


def test_common_asyncio_features_work(loop: SimulationLoop) -> None:
    async def produce(queue: asyncio.Queue[int]) -> None:
        for number in range(20):
            await queue.put(number)
            await asyncio.sleep(0.1)

    async def consume(queue: asyncio.Queue[int], lock: asyncio.Lock) -> int:
        total = 0
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(1), lock:
                    total += await queue.get()
        return total

    async def main() -> int:
        queue, lock = asyncio.Queue[int](2), asyncio.Lock()
        consumers = [asyncio.create_task(consume(queue, lock)) for _ in range(3)]
        await asyncio.gather(produce(queue), *consumers)
        await asyncio.get_running_loop().shutdown_asyncgens()
        await asyncio.get_running_loop().shutdown_default_executor()
        return sum(task.result() for task in consumers)

    assert loop.run(main) == sum(range(20))


def test_dropped_generator_is_closed_on_its_node(loop: SimulationLoop) -> None:
    seen: list[str] = []

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append(current_node().name)

    async def process() -> None:
        async for _ in generate():
            break
        await asyncio.sleep(1)

    async def main() -> None:
        await loop.start("n", process).wait()

    loop.run(main)
    assert seen == ["n"]


def test_callbacks_in_an_empty_context_run_on_their_creator(loop: SimulationLoop) -> None:
    seen: list[str] = []

    async def process() -> None:
        empty = contextvars.Context()
        loop.call_soon(lambda: seen.append(current_node().name), context=empty)
        await asyncio.create_task(asyncio.sleep(1), context=contextvars.Context())

    async def main() -> None:
        await loop.start("n", process).wait()

    loop.run(main)
    assert seen == ["n"]


def test_loop_delegates_to_its_network(loop: SimulationLoop) -> None:
    class Network:
        async def create_connection(
            self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
        ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
            asked.append((host, port))
            return asyncio.Transport(), factory()

        async def create_server(
            self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
        ) -> asyncio.AbstractServer:
            asked.append((host, port))
            return mock.Mock(asyncio.AbstractServer)

    asked: list[tuple[str, int]] = []
    loop.network = Network()

    async def main() -> None:
        await loop.create_server(asyncio.Protocol, host="0.0.0.0", port=80, backlog=9, ssl=None)
        await loop.create_connection(asyncio.Protocol, "10.0.0.1", 80, family=0, local_addr=None)
        answer = await loop.getaddrinfo("10.0.0.1", 80)
        assert answer[0][-1] == ("10.0.0.1", 80)

    loop.run(main)
    assert asked == [("0.0.0.0", 80), ("10.0.0.1", 80)]


def test_no_current_node_outside_of_nodes() -> None:
    with pytest.raises(RuntimeError, match=r"loop\.start"):
        current_node()
