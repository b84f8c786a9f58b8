"""Handlers whose exceptions, results and delays are hostile: their attempts end, and count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from bench import Bench

from holdfast.handlers import Backoff, Context, Retry
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry.event_names import EventName

Payload = dict[str, Any]


def _refuse(*_: object) -> NoReturn:
    raise KeyboardInterrupt("hostile")


class NoText(Exception):
    __str__ = _refuse
    __repr__ = _refuse


class NotText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


class Disguised(BaseException):
    __class__ = property(_refuse)
    __traceback__ = property(_refuse)
    __notes__ = property(_refuse)


class Text(str):
    __slots__ = ()
    __getitem__ = replace = encode = _refuse  # type: ignore[assignment]


class HostileText(Exception):
    def __str__(self) -> str:
        return Text("looks like text")


class Nameless(type):
    __name__ = property(_refuse)


class NoName(Exception, metaclass=Nameless):
    pass


class Never(Retry):
    after_seconds = property(_refuse, lambda *_: None)


class Items(dict[str, Any]):
    items = _refuse


class Opaque:
    __class__ = property(_refuse)


def _raise(error: BaseException) -> NoReturn:
    raise error


def _chained() -> NoReturn:
    try:
        raise NoText
    except NoText as error:
        raise ValueError("chained") from error


def _nan() -> NoReturn:
    error = Retry(after=1.0)
    error.after_seconds = float("nan")
    raise error


def _deep() -> Any:
    return _deep()


HOSTILE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "NoText": (lambda: _raise(NoText()), "NoText", "cannot be made: KeyboardInterrupt"),
    "NotText": (lambda: _raise(NotText()), "NotText", "cannot be made: TypeError"),
    "exit": (lambda: _raise(SystemExit(NoText())), "RuntimeError", "sys.exit((its text"),
    "group": (lambda: _raise(ExceptionGroup("g", [NoText()])), "ExceptionGroup", "g (1 sub"),
    "chained": (_chained, "ValueError", "chained"),
    "Disguised": (lambda: _raise(Disguised("d")), "Disguised", "d"),
    "HostileText": (lambda: _raise(HostileText()), "HostileText", "looks like text"),
    "NoName": (lambda: _raise(NoName("n")), "NoName", "n"),
    "GeneratorExit": (lambda: _raise(GeneratorExit("g")), "GeneratorExit", "g"),
    "MemoryError": (lambda: _raise(MemoryError("m")), "MemoryError", "m"),
    "RecursionError": (_deep, "RecursionError", "maximum recursion depth"),
    "Never": (lambda: _raise(Never()), "Never", "asked for a retry"),
    "NaN": (_nan, "Retry", "asked for a retry"),
    "Items": (lambda: Items(a=1), "Unstorable", "result"),
    "Opaque": (Opaque, "Unstorable", "result"),
    "returned exception": (lambda: ValueError("returned"), "Unstorable", "the result"),
}


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "thread"])
async def test_no_exception_or_result_outlives_its_attempt(bench: Bench, plain: bool) -> None:
    async def handle(ctx: Context, payload: Payload) -> Any:
        return HOSTILE[payload["do"]][0]()

    def handle_plain(ctx: Context, payload: Payload) -> Any:
        return HOSTILE[payload["do"]][0]()

    bench.registry.task("hostile", timeout_seconds=60)(handle_plain if plain else handle)
    tasks = {
        name: (await bench.submit("hostile", payload={"do": name}, max_attempts=1))[0]
        for name in HOSTILE
    }
    await bench.hint()
    async with bench.worker() as worker:
        await bench.until_state(list(tasks.values()), State.FAILED)
        assert worker.stalled() == {}
    for name, task_id in tasks.items():
        _, kind, message = HOSTILE[name]
        error = await bench.error(task_id)
        assert (error["type"], message in error["message"]) == (kind, True), (name, error)
        assert (await bench.reasons(task_id)).count(Reason.CLAIMED) == 1
    assert EventName.ATTEMPT_CRASHED not in bench.logged()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
async def test_delay_of_a_hostile_backoff_can_be_stored(bench: Bench, seconds: float) -> None:
    class Endless(Backoff):
        def delay_seconds(self, failures: int, uniform: float) -> float:
            return seconds

    @bench.registry.task("fails", backoff=Endless())
    async def fails(ctx: Context, payload: Payload) -> None:
        raise ValueError

    (task_id,) = await bench.offer("fails", max_attempts=2)
    async with bench.worker():
        await bench.until_state(task_id, State.SCHEDULED)
    assert (await bench.reasons(task_id))[-1] is Reason.FAILED
