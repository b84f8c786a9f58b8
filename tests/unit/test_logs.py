"""Log lines: rendering of fields; their constants are used, complete and documented."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError, OutcomeUnknown, Unavailable
from holdfast.model.lifecycle import Reason, State
from holdfast.telemetry.event_names import ErrorCode, EventName
from holdfast.telemetry.logs import create_logger
from holdfast.worker.slot_pool import SlotPool

ROOT = Path(__file__).parents[2]
CONSTANTS = ROOT / "system" / "holdfast" / "telemetry" / "event_names.py"
README = ROOT / "observability" / "README.md"
ALERTS = ROOT / "observability" / "prometheus" / "alerts.yml"


def rendered(style: str, **fields: object) -> str:
    stream = io.StringIO()
    log = create_logger(style=style, stream=stream)
    log.info("Task moved", event_name=EventName.TASK_DISPATCHED, **fields)
    return stream.getvalue()


def product_nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted((ROOT / "system" / "holdfast").rglob("*.py")):
        if path != CONSTANTS:
            for node in ast.walk(ast.parse(path.read_text())):
                yield path, node


def test_json_renders_enums_as_their_values() -> None:
    line = json.loads(rendered("json", reason=Reason.REPUBLISHED, to=State.QUEUED))
    assert line["event_name"] == "task_dispatched"
    assert (line["reason"], line["to"]) == (Reason.REPUBLISHED.value, State.QUEUED.value)


@pytest.mark.parametrize("reason", Reason)
def test_console_renders_enums_as_their_values(reason: Reason) -> None:
    line = rendered("text", reason=reason, to=State.QUEUED)
    assert "event_name=task_dispatched" in line
    assert "to=QUEUED" in line
    value = repr(reason.value) if " " in reason.value else reason.value
    assert f"reason={value}" in line
    assert "<" not in line


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutcomeUnknown("the reply was lost"), "outcome_unknown"),
        (Unavailable("no answer", code=ErrorCode.REDIS_TIMEOUT), "redis_timeout"),
        (HoldfastError("inherited code"), "other"),
        (TimeoutError("library error"), "other"),
        (TimeoutError(), "other"),
    ],
    ids=repr,
)
def test_error_is_logged_with_its_code(style: str, error: Exception, code: str) -> None:
    line = rendered(style, error=error)
    if style == "json":
        fields = json.loads(line)
        assert (fields["error"], fields["error_code"]) == (str(error) or "TimeoutError", code)
    else:
        assert (f"error={str(error)!r}" if str(error) else "error=TimeoutError") in line
        assert f"error_code={code}" in line


@pytest.mark.parametrize("style", ["json", "text"])
def test_an_exception_is_logged_with_its_traceback_and_no_locals(style: str) -> None:
    stream = io.StringIO()
    log = create_logger(style=style, stream=stream, role="worker")
    try:
        secret = str(len(style)) * 5
        raise ValueError(len(secret))
    except ValueError:
        log.exception("Loop failed", event_name=EventName.LOOP_FAILED, loop="claim")
    line = stream.getvalue()
    if style == "json":
        fields = json.loads(line)
        assert (fields["event"], fields["level"]) == ("Loop failed", "error")
        assert (fields["role"], fields["loop"]) == ("worker", "claim")
        line = fields["exception"]
    assert "Traceback" in line
    assert "ValueError: 5" in line
    assert "44444" not in line


async def test_crashed_attempt_is_logged_with_its_traceback() -> None:
    async def crash() -> None:
        raise ValueError("a bug of the worker")

    stream = io.StringIO()
    slots = SlotPool(1, create_logger(style="json", stream=stream), dead_seconds=1.0)
    slots.run(crash())
    assert await slots.wait(lambda: slots.idle, 5.0)
    line = json.loads(stream.getvalue())
    assert line["event_name"] == "attempt_crashed"
    assert "Traceback" in line["exception"]
    assert "ValueError: a bug of the worker" in line["exception"]


@pytest.mark.parametrize("value", ["two words", "two\nlines", "\33[31mred", ""])
def test_text_quotes_values_that_are_not_one_plain_word(value: str) -> None:
    line = rendered("text", name=value)
    assert line.endswith(f"name={value!r}\n")
    assert line.count("\n") == 1


def test_json_lines_have_a_utc_timestamp_and_show_other_objects_as_text() -> None:
    fields = json.loads(rendered("json", owner=Path("/x")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", fields["timestamp"])
    assert fields["owner"] == repr(Path("/x"))
    assert fields["level"] == "info"


def test_levels_below_the_chosen_one_are_not_written() -> None:
    stream = io.StringIO()
    log = create_logger(level="WARNING", style="json", stream=stream)
    log.debug("No", event_name=EventName.TASK_DISPATCHED)
    log.info("No", event_name=EventName.TASK_DISPATCHED)
    log.bind(queue="mail").warning("Yes", event_name=EventName.TASK_DISPATCHED)
    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["level"], json.loads(line)["queue"]) == ("warning", "mail")
    assert log.is_enabled_for(logging.ERROR)
    assert not log.is_enabled_for(logging.INFO)


def test_each_class_of_errors_has_its_own_code() -> None:
    classes: list[type[HoldfastError]] = HoldfastError.__subclasses__()
    codes = {each: each.code for each in classes if "code" in vars(each)}
    assert {Unavailable, OutcomeUnknown} <= codes.keys()
    assert len({*codes.values()}) == len(codes)
    assert ErrorCode.OTHER not in codes.values()


def test_code_of_an_instance_does_not_change_its_class() -> None:
    assert Unavailable("x", code=ErrorCode.REDIS_TIMEOUT).code == ErrorCode.REDIS_TIMEOUT
    assert Unavailable("x").code == ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("constants", [EventName, ErrorCode])
def test_no_constant_is_unused(constants: type[EventName | ErrorCode]) -> None:
    used = {
        node.attr
        for _, node in product_nodes()
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == constants.__name__
    }
    assert used == {*constants.__members__}


def test_constant_values_match_their_names() -> None:
    for member in (*EventName, *ErrorCode):
        assert member.value == member.name.lower()


def test_only_the_typed_logger_is_used() -> None:
    """``Logger`` requires ``event_name``; a logger of the standard library would not."""
    makers = {
        path.name
        for path, node in product_nodes()
        if isinstance(node, ast.Attribute) and node.attr in {"getLogger", "get_logger"}
    }
    assert makers == set()


def test_error_line_requires_a_code() -> None:
    """The logger takes the code from an exception; other values need an explicit one."""
    checked = 0
    for path, node in product_nodes():
        if not isinstance(node, ast.Call):
            continue
        fields = {keyword.arg: keyword.value for keyword in node.keywords}
        if "event_name" in fields and "error" in fields:
            checked += 1
            is_exception = isinstance(fields["error"], ast.Name) and fields["error"].id == "error"
            assert is_exception or "error_code" in fields, f"{path}:{node.lineno}"
    assert checked > 5


def test_readme_lists_every_event_and_error() -> None:
    section = README.read_text().partition("## Logs\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert rows == [*EventName, *ErrorCode]


@pytest.mark.parametrize("document", [README, ALERTS], ids=lambda path: path.name)
def test_documents_name_existing_constants(document: Path) -> None:
    text = document.read_text()
    names = re.findall(r"event_name=(\w+)", text)
    assert {*names} <= {*EventName}
    assert {*re.findall(r"error_code=(\w+)", text)} <= {*ErrorCode}
    assert names
