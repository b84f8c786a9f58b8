"""Marking functions with @task and registering them, with the errors of both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import Misconfigured
from holdfast.handlers import Backoff, Context, Registry, task
from holdfast.model.claim import Announcement
from holdfast.settings import Settings


@pytest.fixture
def module_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(directory: Path, name: str, body: str) -> None:
    (directory / f"{name}.py").write_text("from holdfast.handlers import task\n" + body)


def test_task_marks_async_and_plain_functions_and_leaves_them_callable() -> None:
    @task("resize", max_attempts=7, timeout_seconds=2.5, backoff=Backoff(base_seconds=9))
    async def resize(ctx: Context, payload: Any) -> None: ...

    @task("plain")
    def plain(ctx: object, payload: Any) -> str:
        return f"{payload}!"

    registry = Registry()
    made = registry.add(resize)
    assert (made.name, made.function, made.is_async) == ("resize", resize, True)
    assert (made.max_attempts, made.timeout_seconds) == (7, 2.5)
    assert made.backoff.base_seconds == 9
    assert registry.add(plain).is_async is False
    assert plain(None, "hello") == "hello!"
    assert registry.get("resize") is made
    assert registry.get("unknown") is None
    assert registry.announcements() == [
        Announcement("plain", None, None),
        Announcement("resize", 7, 2.5),
    ]


def test_marking_alone_registers_nothing() -> None:
    @task("lonely")
    async def lonely(ctx: Context, payload: Any) -> None: ...

    assert Registry().announcements() == []


def test_registry_task_marks_and_adds_in_one_step() -> None:
    registry = Registry()

    @registry.task("direct", max_attempts=2)
    async def direct(ctx: Context, payload: Any) -> None: ...

    assert registry.announcements() == [Announcement("direct", 2, None)]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "9lives"}, "starts with a letter"),
        ({"name": ""}, "starts with a letter"),
        ({"name": "two words"}, "starts with a letter"),
        ({"name": "line\n"}, "starts with a letter"),
        ({"name": "x" * 201}, "at most 200"),
        ({"name": "x", "max_attempts": 0}, "max_attempts must be 1..1000"),
        ({"name": "x", "timeout_seconds": 0}, "timeout_seconds must be above 0"),
        ({"name": "x", "timeout_seconds": float("nan")}, "timeout_seconds must be above 0"),
        ({"name": "x", "timeout_seconds": float("inf")}, "timeout_seconds must be above 0"),
    ],
)
def test_task_rejects_invalid_names_and_limits(keywords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**keywords)


def test_add_rejects_invalid_handlers() -> None:
    async def unmarked(ctx: Context, payload: Any) -> None: ...

    @task("one")
    async def one(ctx: Context) -> None: ...

    @task("three")
    async def three(ctx: Context, payload: Any, more: Any) -> None: ...

    @task("stream")
    async def stream(ctx: Context, payload: Any) -> Any:
        yield payload

    @task("class")
    class Handler:
        def __init__(self, ctx: Context, payload: Any) -> None: ...

    registry = Registry()
    with pytest.raises(Misconfigured, match=r"unmarked is not a task: decorate it with @task"):
        registry.add(unmarked)
    for wrong in (one, three):
        with pytest.raises(Misconfigured, match=r"two positional arguments, \(ctx, payload\)"):
            registry.add(wrong)
    with pytest.raises(Misconfigured, match="is a generator"):
        registry.add(stream)
    with pytest.raises(Misconfigured, match="is a class"):
        registry.add(Handler)


def test_announcements_are_sorted_by_name() -> None:
    """Several workers insert them at the same time: equal orders cannot deadlock."""
    registry = Registry()

    async def handler(ctx: Context, payload: Any) -> None: ...

    for name in ("b", "c", "a"):
        registry.task(name)(handler)
    assert [announcement.name for announcement in registry.announcements()] == ["a", "b", "c"]


def test_same_function_may_be_added_twice_another_with_its_name_may_not() -> None:
    @task("twice")
    async def first(ctx: Context, payload: Any) -> None: ...

    @task("twice")
    async def second(ctx: Context, payload: Any) -> None: ...

    registry = Registry()
    registry.add(first)
    registry.add(first)
    with pytest.raises(Misconfigured, match=r"two handlers for task 'twice'.*first.*second"):
        registry.add(second)


def test_load_collects_every_marked_function_of_a_module(module_dir: Path) -> None:
    write(
        module_dir,
        "shop_tasks",
        "@task('pay')\nasync def pay(ctx, payload): ...\n"
        "@task('ship')\ndef ship(ctx, payload): ...\n"
        "def helper(): ...\n",
    )
    registry = Registry()
    assert sorted(handler.name for handler in registry.load("shop_tasks")) == ["pay", "ship"]
    assert [a.name for a in registry.announcements()] == ["pay", "ship"]
    registry.load("shop_tasks")  # the same functions again
    assert len(registry.announcements()) == 2


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("empty_tasks", "", "has no tasks: mark functions"),
        ("broken_tasks", "1/0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("needy_tasks", "import not_installed_x", "it needs 'not_installed_x'"),
        ("misnamed_tasks", "@task('a b')\ndef f(ctx, payload): ...", "a name starts with"),
    ],
)
def test_load_explains_unusable_modules(
    module_dir: Path, name: str, body: str, message: str
) -> None:
    write(module_dir, name, body)
    with pytest.raises(Misconfigured, match=message):
        Registry().load(name)


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.tasks", "system.no_such"])
def test_load_names_the_missing_module(name: str) -> None:
    with pytest.raises(Misconfigured, match=r"no module 'no_such|no module 'system\.no_such'"):
        Registry().load(name)


@pytest.mark.parametrize("name", ["", ".relative"])
def test_load_rejects_invalid_module_names(name: str) -> None:
    with pytest.raises(Misconfigured, match="cannot be imported"):
        Registry().load(name)


async def test_load_builtin_registers_the_four_built_in_tasks() -> None:
    registry = Registry()
    registry.load_builtin(Settings())
    names = [announcement.name for announcement in registry.announcements()]
    assert names == ["echo", "http_request", "send_email", "sleep"]
    assert all((handler := registry.get(name)) and handler.is_async for name in names)
    await registry.close()
    await registry.close()


def test_user_task_cannot_take_the_name_of_a_built_in_one() -> None:
    registry = Registry()
    registry.load_builtin(Settings())

    @task("echo")
    async def mine(ctx: Context, payload: Any) -> None: ...

    with pytest.raises(Misconfigured, match="two handlers for task 'echo'"):
        registry.add(mine)
