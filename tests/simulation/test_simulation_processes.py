"""Processes of a simulated run: exit, kill, pause and signals."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy.util import greenlet_spawn

from chaos.simulation.kernel.loop import SimulationLoop
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


class TestExit:
    def test_exit_code_is_the_result_of_main(self, loop: SimulationLoop) -> None:
        async def returns(code: int | None) -> int | None:
            return code

        async def main() -> list[int]:
            nodes = [loop.start("n", functools.partial(returns, code)) for code in (None, 3)]
            return [await node.wait() for node in nodes]

        assert loop.run(main) == [0, 3]

    def test_exception_is_printed_and_exits_with_1(self, loop: SimulationLoop) -> None:
        async def breaks() -> None:
            raise ValueError("broken")

        async def main() -> int:
            return await loop.start("n", breaks).wait()

        assert loop.run(main) == 1
        assert loop.nodes[1].output[-1] == "ValueError: broken"

    @pytest.mark.parametrize("how", ["main", "task"])
    def test_sys_exit(self, loop: SimulationLoop, how: str) -> None:
        async def exits() -> None:
            sys.exit(4)

        async def process() -> None:
            if how == "main":
                await exits()
            task = asyncio.create_task(exits())
            await never()
            await task

        async def main() -> int:
            return await loop.start("n", process).wait()

        assert loop.run(main) == 4

    def test_end_of_main_ends_all_tasks_of_the_node(self, loop: SimulationLoop) -> None:
        seen: list[str] = []

        async def lingers() -> None:
            try:
                while True:
                    await asyncio.sleep(1)
                    seen.append("alive")
            finally:
                seen.append("finally")

        async def process() -> None:
            task = asyncio.create_task(lingers())
            await asyncio.sleep(2.5)
            assert not task.done()

        async def main() -> None:
            await loop.start("n", process).wait()
            await asyncio.sleep(10)

        loop.run(main)
        assert seen == ["alive", "alive"]

    def test_uncaught_task_exceptions_are_printed_by_the_node(self, loop: SimulationLoop) -> None:
        async def breaks() -> None:
            raise ValueError("nobody looks")

        async def process() -> None:
            task = asyncio.create_task(breaks())
            await asyncio.sleep(1)
            del task
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(1)

        async def main() -> None:
            await loop.start("n", process).wait()

        loop.run(main)
        output = "\n".join(loop.nodes[1].output)
        assert "Task exception was never retrieved" in output
        assert "ValueError: nobody looks" in output
        assert "ZeroDivisionError" in output
        assert "0x" not in output


class TestKill:
    def test_no_code_of_a_killed_node_runs(
        self, loop: SimulationLoop, capfd: pytest.CaptureFixture[str]
    ) -> None:
        seen: list[str] = []

        async def generate() -> AsyncIterator[int]:
            try:
                yield 1
                await never()
            finally:
                print("generator")
                seen.append("generator")

        async def lives() -> None:
            try:
                async with asyncio.timeout(10):
                    async for _ in generate():
                        seen.append("lives")  # noqa: PERF401
            finally:
                seen.append("finally")
                print("finally")
                await asyncio.create_task(forever())

        async def process() -> None:
            loop.call_later(2, seen.append, "timer")
            async with asyncio.TaskGroup() as group:
                group.create_task(lives())
                group.create_task(lives())

        async def main() -> int:
            node = loop.start("n", process)
            await asyncio.sleep(1)
            loop.kill(node)
            code = await node.wait()
            await asyncio.sleep(20)
            assert seen == ["lives", "lives"]
            return code

        assert loop.run(main) == -9
        assert seen == ["lives", "lives"]
        loop.dispose()
        assert capfd.readouterr() == ("", "")

    def test_ready_callbacks_of_a_killed_node_do_not_run(self, loop: SimulationLoop) -> None:
        seen: list[str] = []

        async def process() -> None:
            await asyncio.sleep(1)
            seen.append("alive")

        async def main() -> None:
            node = loop.start("n", process)
            loop.pause(node)
            await asyncio.sleep(5)
            assert node.ready
            loop.kill(node)
            await asyncio.sleep(5)

        loop.run(main)
        assert seen == []

    @pytest.mark.parametrize("held_by", ["timer", "callback"])
    def test_objects_held_by_the_loop_are_not_finalised(
        self, loop: SimulationLoop, held_by: str
    ) -> None:
        seen: list[str] = []

        def generate() -> Iterator[None]:
            try:
                yield
            finally:
                seen.append("finally")

        async def process() -> None:
            held = generate()
            next(held)
            if held_by == "timer":
                loop.call_later(2, next, held)
            else:
                loop.call_soon(next, held)
                loop.kill(current_node())
            del held
            await never()

        async def main() -> None:
            node = loop.start("n", process)
            await asyncio.sleep(1)
            loop.kill(node)
            await asyncio.sleep(5)

        loop.run(main)
        assert seen == []

    def test_objects_held_by_others_are_not_finalised(self, loop: SimulationLoop) -> None:
        seen: list[str] = []
        held: list[AsyncIterator[int]] = []

        async def generate() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                seen.append("finally")

        async def process() -> None:
            held.append(generate())
            await anext(held[0])
            await never()

        async def main() -> None:
            node = loop.start("n", process)
            await asyncio.sleep(1)
            loop.kill(node)
            held.clear()
            await asyncio.sleep(1)

        loop.run(main)
        assert seen == []

    @pytest.mark.parametrize(
        ("end", "code"),
        [
            (lambda: os._exit(9), 9),
            (lambda: os.kill(os.getpid(), signal.SIGKILL), -9),
            (lambda: signal.raise_signal(signal.SIGTERM), -15),
            (lambda: os.abort(), -6),  # noqa: PLW0108 - looked up late
        ],
    )
    @pytest.mark.parametrize("nested", [False, True])
    def test_process_that_ends_itself_runs_no_cleanup(
        self, loop: SimulationLoop, end: Callable[[], None], code: int, *, nested: bool
    ) -> None:
        seen: list[str] = []

        def deep() -> None:
            try:
                end()
            except BaseException:  # noqa: BLE001
                seen.append("except")
            finally:
                seen.append("finally")

        async def process() -> None:
            if nested:
                await greenlet_spawn(deep)
            deep()
            seen.append("went on")

        async def main() -> int:
            nodes = [loop.start("n", process) for _ in range(3)]
            codes = [await node.wait() for node in nodes]
            await asyncio.sleep(1)
            assert asyncio.current_task() is not None
            assert seen == []
            return codes[-1]

        assert loop.run(main) == code
        loop.dispose()

    def test_restart_is_a_new_process_of_the_same_name(self, loop: SimulationLoop) -> None:
        async def main() -> None:
            first = loop.start("n", forever)
            loop.kill(first)
            second = loop.start("n", forever)
            assert (first.name, first.incarnation) == ("n", 1)
            assert (second.name, second.incarnation) == ("n", 2)
            assert first.number != second.number
            assert second.alive

        loop.run(main)

    def test_exits_are_announced(self, loop: SimulationLoop) -> None:
        ended: list[str] = []
        loop.exited.append(lambda node: ended.append(f"{node.name} {node.exit_code}"))

        async def main() -> None:
            node = loop.start("n", forever)
            loop.kill(node, -11)
            loop.kill(node)  # the second one has no effect

        loop.run(main)
        assert ended == ["n -11", "harness 0"]

    def test_killing_the_harness_ends_the_run(self, loop: SimulationLoop) -> None:
        async def main() -> None:
            loop.kill(current_node())
            await never()

        with pytest.raises(RuntimeError, match="harness was killed"):
            loop.run(main)


class TestPause:
    def test_timers_of_a_paused_process_accumulate(self, loop: SimulationLoop) -> None:
        ticks: list[float] = []

        async def process() -> None:
            for second in range(1, 10):
                loop.call_at(second, lambda: ticks.append(loop.time()))
            await never()

        async def main() -> None:
            node = loop.start("n", process)
            await asyncio.sleep(2.5)
            loop.pause(node)
            await asyncio.sleep(4)
            assert len(ticks) == 2
            loop.resume(node)
            await asyncio.sleep(4)

        loop.run(main)
        assert [round(tick, 2) for tick in ticks] == [1, 2, 6.5, 6.5, 6.5, 6.5, 7, 8, 9]

    def test_dead_process_cannot_be_paused(self, loop: SimulationLoop) -> None:
        async def main() -> None:
            node = loop.start("n", forever)
            loop.kill(node)
            for act in (loop.pause, loop.resume):
                with pytest.raises(ProcessLookupError, match="n is dead"):
                    act(node)
            with pytest.raises(ProcessLookupError, match="n is dead"):
                loop.send_signal(node, signal.SIGTERM)

        loop.run(main)


class TestSignals:
    def test_signal_handler_runs_on_its_node(self, loop: SimulationLoop) -> None:
        async def process() -> int:
            stopping = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, stopping.set)
            await stopping.wait()
            assert current_node().name == "n"
            return 5

        async def main() -> int:
            node = loop.start("n", process)
            await asyncio.sleep(1)
            loop.send_signal(node, signal.SIGTERM)
            return await node.wait()

        assert loop.run(main) == 5

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
    def test_signal_without_a_handler_kills(self, loop: SimulationLoop, number: int) -> None:
        async def main() -> int:
            node = loop.start("n", forever)
            await asyncio.sleep(1)
            loop.send_signal(node, number)
            return await node.wait()

        assert loop.run(main) == -number

    def test_paused_process_gets_the_signal_on_resume(self, loop: SimulationLoop) -> None:
        async def main() -> None:
            node = loop.start("n", forever)
            await asyncio.sleep(1)
            loop.send_signal(node, signal.SIGSTOP)
            loop.send_signal(node, signal.SIGTERM)
            await asyncio.sleep(1)
            assert node.state == "paused"
            loop.send_signal(node, signal.SIGCONT)
            assert await node.wait() == -signal.SIGTERM

        loop.run(main)
