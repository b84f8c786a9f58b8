"""Where spans are sent, from HOLDFAST_OTLP_ENDPOINT and the variables OTEL_*."""

from __future__ import annotations

import pytest

from holdfast.errors import Misconfigured
from holdfast.instrumentation.telemetry import create_telemetry
from holdfast.settings import Settings
from holdfast.telemetry.otlp import SpanDestination, span_destination

OTLP = "OTEL_EXPORTER_OTLP_"
ALL, TRACES = f"{OTLP}ENDPOINT", f"{OTLP}TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("endpoint", "environment", "url"),
    [
        (None, {}, None),
        ("", {ALL: " "}, None),
        ("http://h:4318", {}, "http://h:4318/v1/traces"),
        ("http://h/otlp/", {}, "http://h/otlp/v1/traces"),
        (None, {ALL: "https://h:4318/"}, "https://h:4318/v1/traces"),
        (None, {TRACES: "https://h/api/traces"}, "https://h/api/traces"),
        (None, {ALL: "http://a", TRACES: "http://b/"}, "http://b/"),
        ("http://own", {ALL: "http://a", TRACES: "http://b/"}, "http://own/v1/traces"),
        (None, {ALL: "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
        (None, {ALL: "http://a", "OTEL_TRACES_EXPORTER": "otlp"}, "http://a/v1/traces"),
        ("http://own", {"OTEL_SDK_DISABLED": "True"}, None),
        ("http://own", {"OTEL_SDK_DISABLED": "false"}, "http://own/v1/traces"),
    ],
)
def test_url(endpoint: str | None, environment: dict[str, str], url: str | None) -> None:
    found = span_destination(endpoint, environment)
    assert (found and found.url) == url


def destination(**variables: str) -> SpanDestination:
    found = span_destination("http://h", {f"{OTLP}{k}": v for k, v in variables.items()})
    assert found is not None
    return found


def test_variable_of_traces_overrides_that_of_all_signals() -> None:
    found = destination(
        HEADERS="a=1", TRACES_HEADERS="b=2", TIMEOUT="1", TRACES_TIMEOUT="2500", COMPRESSION="none"
    )
    assert (found.headers, found.timeout_seconds, found.gzip) == ({"b": "2"}, 2.5, False)
    assert destination(TRACES_COMPRESSION="gzip", COMPRESSION="none").gzip


def test_values_are_percent_decoded() -> None:
    assert destination(HEADERS=" a = x%2Cy%3D , b=c=d,").headers == {"a": "x,y=", "b": "c=d"}


def test_paths_of_certificates() -> None:
    found = destination(
        CERTIFICATE="ca.pem", TRACES_CLIENT_CERTIFICATE="client.pem", CLIENT_KEY="key.pem"
    )
    paths = (found.certificate, found.client_certificate, found.client_key)
    assert paths == ("ca.pem", "client.pem", "key.pem")


def test_headers_are_not_shown() -> None:
    assert "secret" not in repr(destination(HEADERS="x-key=secret"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ALL, "collector:4318"),
        (TRACES, "http://"),
        (f"{OTLP}PROTOCOL", "grpc"),
        (f"{OTLP}TRACES_PROTOCOL", "http/json"),
        (f"{OTLP}COMPRESSION", "zstd"),
        (f"{OTLP}TIMEOUT", "10s"),
        (f"{OTLP}TIMEOUT", "0"),
        (f"{OTLP}TIMEOUT", "-1"),
        (f"{OTLP}HEADERS", "x-key:topsecret"),
        (f"{OTLP}HEADERS", "=topsecret"),
        (f"{OTLP}HEADERS", "x-key=topsecret%0D%0Ax: y"),
        (f"{OTLP}TRACES_HEADERS", "topsecret"),
        ("OTEL_RESOURCE_ATTRIBUTES", "topsecret"),
        (f"{OTLP}CERTIFICATE", "/nowhere/ca.pem"),
        (f"{OTLP}CLIENT_CERTIFICATE", "/nowhere/client.pem"),
    ],
)
def test_invalid_variable_ends_a_role_with_its_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALL, "https://127.0.0.1:4318")
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured) as refused:
        create_telemetry(Settings(), "worker")
    text = str(refused.value)
    assert (value if value.startswith("/") else name) in text
    assert "topsecret" not in text


def test_protocol_of_another_exporter_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment for gRPC is no error where the address of Holdfast's own is set."""
    monkeypatch.setenv(f"{OTLP}PROTOCOL", "grpc")
    assert not create_telemetry(Settings(), "worker").tracing.recording
    assert create_telemetry(Settings(otlp_endpoint="http://h"), "worker").tracing.recording
