"""The event loop of a simulated run: virtual time, many nodes, one seed.

Each step picks one node with a ready callback, by seed, and runs that callback. asyncio itself is
unchanged: tasks, timeouts, task groups, locks and queues are the real ones. Its dependence on
memory addresses is removed: asyncio keeps tasks in sets, so a task's hash is its creation number,
and tasks woken by the same step run in the order of their creation.
"""

# ruff: noqa: SLF001 - a loop uses the internals of asyncio's handles

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import re
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

import greenlet  # type: ignore[import-untyped]

from chaos.simulation.kernel import virtual
from chaos.simulation.kernel.node import NODE, Node, current_node
from chaos.simulation.kernel.rng import Branch, RngStreams
from chaos.simulation.kernel.trace import Trace
from chaos.simulation.kernel.virtual_time import VirtualTimeLoop

STEP_SECONDS = 1e-6  # virtual time per step, so that a busy loop does not stop the clock

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Stuck(RuntimeError):
    """The harness has not returned, but nothing is left to run or virtual time is up."""


class SimulatedTask(asyncio.Task[_T]):
    """A task hashed and ordered by its creation number."""

    __slots__ = ("node", "number")

    def __init__(self, node: Node, number: int, coroutine: Any, **options: Any) -> None:
        self.node, self.number = node, number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number


class SimulationLoop(VirtualTimeLoop):
    """Runs nodes in virtual time: ``run`` the harness, judge the run, then ``dispose``.

    ``exited`` is called for every node that ends; ``refused`` lists calls that are not simulated.
    """

    def __init__(
        self, seed: int, *, keep_trace: bool = False, branch: Branch | None = None
    ) -> None:
        super().__init__()
        self.seed = seed
        self.rng = RngStreams(seed, branch)
        self.trace = Trace(self.time, keep=keep_trace)
        self.nodes: list[Node] = []
        self.exited: list[Callable[[Node], None]] = []
        self.refused: list[str] = []
        self._until = math.inf
        self._draw = self.rng.stream("schedule").random
        self._runnable: list[Node] = []  # running nodes with a ready callback
        self._running: Node | None = None
        self._stacks: list[Any] = []
        self._task_numbers = itertools.count(1)
        self._incarnations: Counter[str] = Counter()
        self._generators: dict[int, Node] = {}  # by id: weak references die too early

    # ------------------------------------------------------------------------------ the run

    def run(
        self, main: Callable[[], Coroutine[Any, Any, _T]], *, max_seconds: float = math.inf
    ) -> _T:
        """Run ``main`` as the node "harness" until it returns; all other nodes stop then.

        Raises:
            Stuck: nothing is left to run, or ``max_seconds`` of virtual time are up.
            BaseException: the exception that ``main`` raised.
        """
        results: list[_T] = []
        failures: list[BaseException] = []

        async def harness() -> int:
            try:
                results.append(await main())
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)
            return len(failures)

        self._until = self._now + max_seconds
        node = self.start("harness", harness)
        self.exited.append(lambda ended: self.stop() if ended is node else None)
        if (branch := self.rng.branch) is not None:
            self.call_at(branch.at, self.rng.diverge, context=node.context.copy())
        with virtual.installed():
            self.run_forever()
        if failures:
            raise failures[0]
        if not results:
            raise RuntimeError(f"the harness was killed (exit code {node.exit_code})")
        return results[0]

    def dispose(self) -> None:
        """Dispose of all nodes without changing the trace, and close the loop."""
        trace, self.trace = self.trace, Trace(self.time)  # the run's digest is final
        asyncio._set_running_loop(self)  # a ``finally`` may use the running loop
        logging.disable()  # suppress logs of interrupted libraries
        try:
            with virtual.installed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for node in self.nodes:
                    node.dispose()
                for stack in self._stacks:
                    if not stack.dead:
                        stack.throw()  # a suspended stack keeps the objects of the run alive
        finally:
            logging.disable(logging.NOTSET)
            asyncio._set_running_loop(None)
        self.trace = trace
        self._timers.clear()
        self.close()

    def _run_once(self) -> None:
        """Run steps until ``stop``; called by ``run_forever``.

        The steps of each process run on a separate stack. A process that ends itself within a step
        leaves its stack suspended, so no ``finally`` runs, as after a real exit.
        """
        runnable, draw = self._runnable, self._draw
        while not self._stopping:
            if self._ready:
                self._enqueue_ready()
            timers = self._timers
            while timers and timers[0][0] <= self._now:
                self._enqueue(heapq.heappop(timers)[2])
            if self._now > self._until:
                raise Stuck(f"not finished at {self._until:.0f} virtual seconds\n{self._waits()}")
            if not runnable:
                self._advance_clock()
                continue
            index = int(draw() * len(runnable)) if len(runnable) > 1 else 0
            node = runnable[index]
            handle = node.ready.popleft()
            if not node.ready:
                del runnable[index]
            if not handle._cancelled:
                self._now += STEP_SECONDS
                if node.stack is None:
                    node.stack = greenlet.greenlet(self._steps)
                    self._stacks.append(node.stack)
                node.stack.switch(node, handle)

    def _steps(self, node: Node, handle: Any) -> None:
        """Run steps on the stack of a process."""
        scheduler = node.stack.parent
        while True:
            self._step(node, handle)
            node, handle = scheduler.switch()

    def _step(self, node: Node, handle: Any) -> None:
        callback = handle._callback
        task: Any = getattr(callback, "__self__", None)
        numbered = type(task) is SimulatedTask
        self.trace.step(node.name, str(task.number) if numbered else _name(callback))
        self._running = node
        try:
            handle._run()
        except SystemExit as error:
            self.kill(node, _exit_code(error))
        if numbered and task.done():
            node.tasks.pop(task.number, None)
        # A traceback may keep this frame alive, which must not keep the task alive.
        del handle, callback, task

    def _enqueue_ready(self) -> None:
        """Enqueue the callbacks that the last step made ready on their nodes."""
        fresh = self._ready
        for handle in _in_creation_order(fresh) if len(fresh) > 1 else fresh:
            self._enqueue(handle)
        fresh.clear()

    def _enqueue(self, handle: Any) -> None:
        node = handle._context.get(NODE)
        if node is None:  # created with an empty context
            node = self._current()
            handle._context.run(NODE.set, node)
        if node.state == "dead":
            node.retained.append(handle)  # its arguments must not be finalised
            return
        node.ready.append(handle)
        if len(node.ready) == 1 and node.state == "running":
            self._runnable.append(node)

    def _advance_clock(self) -> None:
        """Move the clock to the next timer of a live node."""
        while self._timers:
            when, _, handle = self._timers[0]
            node = handle._context.get(NODE)
            if not handle._cancelled and (node is None or node.alive):
                self._now = max(self._now, when)
                return
            heapq.heappop(self._timers)
            if node is not None:
                node.retained.append(handle)
        raise Stuck(f"nothing is left to run at {self._now:.6f} s\n{self._waits()}")

    def _waits(self) -> str:
        alive = [node for node in self.nodes if node.alive]
        return "\n".join(f"{node}: {'; '.join(node.waits())}" for node in alive)

    # ---------------------------------------------------------------------------- processes

    def start(self, name: str, main: Callable[[], Coroutine[Any, Any, int | None]]) -> Node:
        """Start a node; it exits with what ``main`` returns (None: 0, an exception: 1)."""
        self._incarnations[name] += 1
        node = Node(self, name, len(self.nodes) + 1, self._incarnations[name])
        self.nodes.append(node)
        self.trace.note("node", name, f"started, incarnation {node.incarnation}")

        async def process() -> None:
            try:
                code = await main()
            except SystemExit as error:
                code = _exit_code(error)
            except BaseException:  # noqa: BLE001 - the interpreter prints it and exits with 1
                node.write(traceback.format_exc())
                code = 1
            self.kill(node, code or 0)

        self.create_task(process(), name=name, context=node.context)
        return node

    def kill(self, node: Node, code: int = -signal.SIGKILL) -> None:
        """End a node immediately: none of its code runs any more, not even a ``finally``."""
        if node.alive:
            self.trace.note("node", node.name, f"exited with {code}")
            self._unschedule(node)
            node.end(code)
            for callback in list(self.exited):
                callback(node)

    def leave(self, code: int) -> NoReturn:
        """End the node whose step is running, from anywhere within that step (``os._exit``)."""
        node = current_node()
        if node is not self._running:
            raise RuntimeError(f"{node} cannot exit within a step of {self._running}")
        self.kill(node, code)
        if (task := asyncio.current_task(self)) is not None:
            asyncio.tasks._leave_task(self, task)
        node.retained += [node.stack, greenlet.getcurrent()]
        node.stack.parent.switch()
        raise AssertionError("a dead process continued to run")

    def pause(self, node: Node) -> None:
        """Stop scheduling a node; its ready callbacks queue up.

        Raises:
            ProcessLookupError: it is dead.
        """
        self._require_alive(node)
        if node.state == "running":
            self.trace.note("node", node.name, "paused")
            self._unschedule(node)
            node.state = "paused"

    def resume(self, node: Node) -> None:
        """Schedule a paused node again.

        Raises:
            ProcessLookupError: it is dead.
        """
        self._require_alive(node)
        if node.state == "paused":
            self.trace.note("node", node.name, "resumed")
            node.state = "running"
            if node.ready:
                self._runnable.append(node)

    def send_signal(self, node: Node, number: int) -> None:
        """Deliver a signal: SIGKILL, SIGSTOP, SIGCONT immediately, others when the node next runs.

        Raises:
            ProcessLookupError: it is dead.
        """
        self._require_alive(node)
        if number == signal.SIGKILL:
            self.kill(node)
        elif number == signal.SIGSTOP:
            self.pause(node)
        elif number == signal.SIGCONT:
            self.resume(node)
        else:
            self.trace.note("node", node.name, f"signal {int(number)}")
            callback, arguments = node.signal_handlers.get(number, (self.kill, (node, -number)))
            self._enqueue(asyncio.Handle(callback, arguments, self, node.context.copy()))

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Set a handler of the current node."""
        current_node().signal_handlers[sig] = (callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler of the current node."""
        return current_node().signal_handlers.pop(sig, None) is not None

    def _current(self) -> Node:
        """Return the node whose step is running or ran last."""
        if self._running is None:
            raise RuntimeError("no node is running: start one with loop.start()")
        return self._running

    def _unschedule(self, node: Node) -> None:
        if node in self._runnable:
            self._runnable.remove(node)

    @staticmethod
    def _require_alive(node: Node) -> None:
        if not node.alive:
            raise ProcessLookupError(f"{node.name} is dead")

    # -------------------------------------------------------------------- tasks, generators

    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: object = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[_T]:
        node = (NODE.get(None) if context is None else context.get(NODE)) or self._current()
        number = next(self._task_numbers)
        # asyncio's counter of task names belongs to the interpreter, not to the run.
        name = name or f"Task-{number}"
        task = SimulatedTask[_T](
            node, number, coro, loop=self, name=name, context=context, **options
        )
        node.tasks[number] = task
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Print an uncaught exception to the node's stderr, if the node is alive."""
        failed = context.get("task") or context.get("future")
        node = getattr(failed, "node", None) or NODE.get(None) or self._running
        error = context.get("exception")
        text = "".join(traceback.format_exception(error)) if error else ""
        if node is not None and not self.is_closed():
            node.write(_ADDRESS.sub("", f"{context.get('message')}\n{text}"))

    def _asyncgen_firstiter_hook(self, generator: Any) -> None:
        self._generators[id(generator)] = current_node()

    def _asyncgen_finalizer_hook(self, generator: Any) -> None:
        node = self._generators.pop(id(generator), None)
        if node is None or self.is_closed():
            return
        if node.alive:
            self.create_task(generator.aclose(), context=node.context.copy())
        else:
            node.retained.append(generator)


def _in_creation_order(handles: list[asyncio.Handle]) -> list[asyncio.Handle]:
    """Sort adjacent task steps by creation; they may have been woken in the order of a set."""
    ordered: list[asyncio.Handle] = []
    for _, run in itertools.groupby(handles, key=lambda handle: _task_number(handle) > 0):
        ordered.extend(sorted(run, key=_task_number))
    return ordered


def _task_number(handle: Any) -> int:
    """Return the creation number of the task this step belongs to; 0 if it is no task step."""
    task = getattr(handle._callback, "__self__", None)
    return task.number if type(task) is SimulatedTask else 0


def _name(callback: Any) -> str:
    return getattr(callback, "__qualname__", None) or type(callback).__name__


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    return 1
