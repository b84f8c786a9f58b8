"""Settings: how HOLDFAST_* variables are read, and what their errors show."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

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
    assert settings.api_keys == {"default": (SecretStr("topsecret"),)}
    assert "topsecret" not in repr(settings)


def test_passwords_of_urls_are_not_shown() -> None:
    settings = Settings(
        database_url="postgresql://shop:top@se:cret@db:5432/holdfast?password=topsecret",
        redis_url="redis://:topsecret@127.0.0.1:6379/0",
        otlp_endpoint="http://me:topsecret@collector:4318",
    )
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert "postgresql://shop:***@db:5432/holdfast?password=***" in shown
        assert "redis://:***@127.0.0.1:6379/0" in shown
        assert "secret" not in shown
        assert "se:cret" not in shown
    assert settings.redis_url == "redis://:topsecret@127.0.0.1:6379/0"


def test_arguments_override_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_API_PORT", "not a number")
    assert Settings(api_port=9).api_port == 9


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_NO_SUCH_SETTING", "1")
    assert not hasattr(Settings(), "no_such_setting")


@pytest.mark.parametrize("value", ["", "a,b", '"a"', "5", "null", '{"a": 1}', '["a"'])
@pytest.mark.parametrize("field", ["queues", "http_allowed_hosts", "api_hosts"])
def test_list_must_be_a_json_list(field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HOLDFAST_{field.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (problem,) = refused.value.errors()
    assert (problem["loc"], problem["msg"]) == ((field,), "Value error, must be a JSON list")


@pytest.mark.parametrize(
    "host", ["", "http://tasks.example", "tasks.example:8000", "tasks.example/", "*", "a b"]
)
def test_api_host_is_a_name(host: str) -> None:
    assert Settings(api_hosts=("tasks.example", "10.0.0.1", "fd00::1")).api_hosts
    with pytest.raises(ValidationError, match="is no name of a host"):
        Settings(api_hosts=(host,))


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ("[]", {}),
        ("{}", {}),
        ('["a", "b"]', {"default": ("a", "b")}),
        ('{"shop": "a", "desk.2": ["b", "c"]}', {"shop": ("a",), "desk.2": ("b", "c")}),
    ],
)
def test_api_keys_have_names(
    value: str, keys: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", value)
    found = Settings().api_keys
    assert {n: tuple(s.get_secret_value() for s in found[n]) for n in found} == keys


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "must be a JSON object"),
        ("topsecret", "must be a JSON object"),
        ('"topsecret"', "must be a JSON object"),
        ('{"shop": []}', "'shop' has no secret"),
        ('{"": "topsecret"}', "the name '' is not"),
        ('{"a b": "topsecret"}', "the name 'a b' is not"),
        ('{"shop": "topsecret", "desk": "topsecret"}', "the same secret stands twice"),
        ('["topsecret", "topsecret"]', "the same secret stands twice"),
        ('{"shop": {"topsecret": 1}}', ""),
        ('{"shop": [1]}', ""),
    ],
)
def test_api_keys_that_are_refused(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_API_KEYS", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert message in str(refused.value)
    assert "topsecret" not in str(refused.value)


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
