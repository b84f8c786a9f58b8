"""The address of Postgres: libpq URLs as hosted databases give them to their users."""

from __future__ import annotations

import pytest

from holdfast.errors import Misconfigured
from holdfast.settings import Settings
from holdfast.store.address import DatabaseAddress, parse


def address(url: str) -> DatabaseAddress:
    return parse(Settings(database_url=url, connect_timeout_seconds=5))


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@db/x", [("db", None)]),
        ("postgres://u:p@db:6432/x", [("db", 6432)]),
        ("postgresql+psycopg://u@[::1]:5/x", [("::1", 5)]),
        ("postgresql://u@a:1,b,[::1]:3/x", [("a", 1), ("b", None), ("::1", 3)]),
        ("postgresql:///x?host=/var/run/postgresql", [("/var/run/postgresql", None)]),
        ("postgresql://u@%2Fvar%2Frun:7/x", [("/var/run", 7)]),
        ("postgresql:///x?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///x?host=a,b&port=9", [("a", 9), ("b", 9)]),
        ("postgresql:///x", [None]),
    ],
)
def test_hosts_are_read(url: str, hosts: list[object]) -> None:
    assert list(address(url).hosts) == hosts


def test_client_side_options_are_not_sent_to_postgres() -> None:
    found = address(
        "postgresql://u:p@db/x?sslmode=require&connect_timeout=3&application_name=billing"
        "&channel_binding=prefer&gssencmode=disable&keepalives_idle=60&tcp_user_timeout=9000"
        "&options=-c%20statement_timeout%3D9000"
    )
    assert found.dsn == "postgresql://u:p@/x?sslmode=require&options=-c+statement_timeout%3D9000"
    assert found.connect_timeout_seconds == found.connect_seconds_max == 3
    assert found.application_name == "billing"
    assert (found.keepalive.keepalives_idle, found.keepalive.tcp_user_timeout) == (60, 9000)


def test_several_hosts_each_get_the_time_and_must_be_writable() -> None:
    found = address("postgresql://u@a,b,c/x")
    assert found.connect_seconds_max == 15
    assert "target_session_attrs=read-write" in found.dsn
    chosen = address("postgresql://u@a,b/x?target_session_attrs=any")
    assert "target_session_attrs=any" in chosen.dsn


def test_password_may_contain_an_at_sign() -> None:
    found = address("postgresql://u:p@ss@db/x")
    assert (found.dsn, found.hosts) == ("postgresql://u:p%40ss@/x", (("db", None),))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://u@db:0/x", "the port of the host 'db' must be a number from 1 to 65535"),
        ("postgresql://u@db:many/x", "the port of the host 'db' must be a number"),
        ("postgresql://u@a,,b/x", "'' is not a host"),
        ("postgresql:///x?host=a,b&port=1,2,3", "names 2 hosts, but 3 ports"),
        ("postgresql://u@db/x?connect_timeout=soon", "connect_timeout must be a whole number"),
        ("postgresql://u@db/x?channel_binding=require", "channel_binding=require is not supported"),
        ("postgresql://u@db/x?hostaddr=10.0.0.1", "hostaddr is not supported"),
        ("postgresql://u@db/x?sslmode", "bad query field"),
    ],
)
def test_invalid_address_is_named_in_one_line(url: str, complaint: str) -> None:
    with pytest.raises(Misconfigured, match=r"^HOLDFAST_DATABASE_URL: ") as raised:
        address(url)
    assert complaint in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
