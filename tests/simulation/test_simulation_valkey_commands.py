"""Classification of Redis commands."""

from __future__ import annotations

import pytest

from chaos.simulation.valkey.commands import block_seconds, hint_of, masked, stamped, with_ids


def words(text: str) -> list[bytes]:
    return text.encode().split()


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        ("XREADGROUP GROUP g c COUNT 1 BLOCK 1500 STREAMS s >", 1.5),
        ("xreadgroup group BLOCK 7 block 0 noack streams BLOCK >", 0.0),
        ("XREAD BLOCK 20 STREAMS a b $ $", 0.02),
        ("XREAD COUNT 3 STREAMS BLOCK 1-0", None),
        ("XREADGROUP GROUP g BLOCK STREAMS s >", None),
        ("XREAD BLOCK nonsense STREAMS s $", None),
        ("GET BLOCK", None),
    ],
)
def test_only_blocking_reads_wait(command: str, seconds: float | None) -> None:
    assert block_seconds(words(command)) == seconds


@pytest.mark.parametrize(
    ("command", "stamped_command"),
    [
        ("XADD s * a b", "XADD s 7-* a b"),
        ("xadd s NOMKSTREAM MAXLEN ~ 9 LIMIT 5 * *", "xadd s NOMKSTREAM MAXLEN ~ 9 LIMIT 5 7-* *"),
        ("XADD s MINID = 3 * a *", "XADD s MINID = 3 7-* a *"),
        ("XADD s MAXLEN 3 5-1 a *", "XADD s MAXLEN 3 5-1 a *"),
        ("XADD s", "XADD s"),
        ("SET s *", "SET s *"),
    ],
)  # fmt: skip
def test_ids_are_stamped_with_the_virtual_clock(command: str, stamped_command: str) -> None:
    assert stamped(words(command), 7) == words(stamped_command)


def test_hints_are_distinguished_from_other_entries() -> None:
    hint = "XADD holdfast:hints:default MAXLEN ~ 10 5-* id T epoch 4 traceparent x"
    assert hint_of(words(hint)) == ("T", 4)
    assert hint_of(words("XADD holdfast:poke * id T epoch 4")) is None
    assert hint_of(words("XADD a:hints:b * id T epoch x")) is None
    assert hint_of(words("DEL a:hints:b * id T epoch 4")) is None


def test_stream_ids_are_replaced_by_key() -> None:
    command = words("XREAD BLOCK 1 STREAMS a b $ 5-0")
    assert with_ids(command, {b"a": b"9-0"}) == words("XREAD BLOCK 1 STREAMS a b 9-0 5-0")


def test_values_that_differ_between_runs_are_masked() -> None:
    hello = b"*4\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:807\r\n"
    assert masked(hello) == b"*4\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:1\r\n"
    pending = b"*1\r\n*4\r\n$3\r\n5-0\r\n$1\r\nc\r\n:1234\r\n:2\r\n"
    assert masked(pending) == b"*1\r\n*4\r\n$3\r\n5-0\r\n$1\r\nc\r\n:0\r\n:2\r\n"
    consumers = b"$7\r\npending\r\n:3\r\n$4\r\nidle\r\n:99\r\n$8\r\ninactive\r\n:-1\r\n"
    assert masked(consumers).endswith(b"$4\r\nidle\r\n:0\r\n$8\r\ninactive\r\n:-1\r\n")
