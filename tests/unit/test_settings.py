"""Settings: how HOLDFAST_* variables are read, and what their errors show."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from holdfast.settings import Settings


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("HOLDFAST_API_PORT", "9", "api_port", 9),
        ("holdfast_api_port", "9", "api_port", 9),
        ("HOLDFAST_POLL_SECONDS", "0.5", "poll_seconds", 0.5),
        ("HOLDFAST_SMTP_START_TLS", "true", "smtp_start_tls", True),
        ("HOLDFAST_SMTP_START_TLS", "1", "smtp_start_tls", True),
        ("HOLDFAST_SMTP_START_TLS", "Off", "smtp_start_tls", False),
        ("HOLDFAST_QUEUES", '["a", "b"]', "queues", ("a", "b")),
        ("HOLDFAST_HTTP_ALLOWED_HOSTS", "[]", "http_allowed_hosts", ()),
        ("HOLDFAST_REDIS_PREFIX", "", "redis_prefix", ""),
    ],
)
def test_variable_sets_its_field(
    variable: str, value: str, field: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(Settings(), field) == expected


def test_secrets_are_read_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", '["topsecret"]')
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["topsecret"]
    assert "topsecret" not in repr(settings)


def test_arguments_override_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_API_PORT", "not a number")
    assert Settings(api_port=9).api_port == 9


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_NO_SUCH_SETTING", "1")
    assert not hasattr(Settings(), "no_such_setting")


@pytest.mark.parametrize("value", ["", "a,b", '"a"', "5", "null", '{"a": 1}', '["a"'])
@pytest.mark.parametrize("field", ["queues", "api_keys", "http_allowed_hosts"])
def test_list_must_be_a_json_list(field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HOLDFAST_{field.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (problem,) = refused.value.errors()
    assert (problem["loc"], problem["msg"]) == ((field,), "Value error, must be a JSON list")


@pytest.mark.parametrize("value", ["", " ", "maybe", "2"])
def test_bool_must_be_a_bool(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_ACCEPT_UNKNOWN_NAMES", value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HOLDFAST_API_KEYS", "topsecret"),
        ("HOLDFAST_DATABASE_URL", "mysql://user:topsecret@host/database"),
    ],
)
def test_error_does_not_show_the_value(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "topsecret" not in str(refused.value)
