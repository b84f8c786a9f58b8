"""No command shows a password of the URLs it is given, whatever is wrong with them."""

from __future__ import annotations

import pytest
from command import Command
from waiting import wait_until

SECRET = "s3cretPW"
DATABASES = (
    f"postgresql://u:{SECRET}@127.0.0.1:1/x",
    f"postgresql://u:{SECRET}@127.0.0.1:0/x",
    f"postgresql://u:{SECRET}@127.0.0.1:port/x",
    f"postgresql://u:{SECRET}@127.0.0.1:1/x?sslmode=sometimes",
    f"postgresql://u@127.0.0.1:1/x?password={SECRET}",
    f"postgresql://u:{SECRET}@[::1/x",
    f"postgresql://u:a@{SECRET}@127.0.0.1:1/x",
    f"postgres//u:{SECRET}@127.0.0.1:1/x",
)
REDISES = (
    f"redis://:{SECRET}@127.0.0.1:1/0",
    f"redis://:{SECRET}@127.0.0.1:99999/0",
    f"redis://:{SECRET}@127.0.0.1:port/0",
    f"http://:{SECRET}@127.0.0.1:1/0",
    f"redis//:{SECRET}@127.0.0.1:1/0",
)


@pytest.mark.parametrize("arguments", [("doctor",), ("migrate",)])
@pytest.mark.parametrize("url", DATABASES)
def test_password_of_a_database_is_not_shown(
    command: Command, arguments: tuple[str, ...], url: str
) -> None:
    code, output, error = command.run(*arguments, HOLDFAST_DATABASE_URL=url)
    assert code != 0
    assert output + error
    assert SECRET not in output + error


@pytest.mark.parametrize("url", REDISES)
def test_password_of_redis_is_not_shown(command: Command, url: str) -> None:
    code, output, error = command.run("doctor", HOLDFAST_REDIS_URL=url)
    assert code != 0
    assert output + error
    assert SECRET not in output + error


@pytest.mark.parametrize("role", ["scheduler", "worker", "api"])
def test_log_of_a_role_without_its_servers_shows_no_password(command: Command, role: str) -> None:
    nowhere = {
        "HOLDFAST_DATABASE_URL": DATABASES[0],
        "HOLDFAST_REDIS_URL": REDISES[0],
        "HOLDFAST_API_PORT": "0",
        "HOLDFAST_HEALTH_PORT": "0",
    }
    with command.running(role, **nowhere) as running:
        wait_until(lambda: "cannot reach Postgres" in running.log.read_text())
    assert SECRET not in running.log.read_text()
