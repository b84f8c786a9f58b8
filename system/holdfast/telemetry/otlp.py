"""Where and how spans are exported: HOLDFAST_OTLP_ENDPOINT and OpenTelemetry's own variables.

The variables and their meaning are those of the OpenTelemetry specification ("OTLP exporter" and
"SDK environment variables"); a variable of traces overrides the one of all signals. OpenTelemetry's
detectors are not used: they log values that they cannot read, which may be keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_PREFIX = "OTEL_EXPORTER_OTLP_"
_ANSWER_SECONDS = 2.0
_PROTOCOL = "http/protobuf"


@dataclass(frozen=True, slots=True)
class SpanDestination:
    """A collector, and the attributes that the operator gives to all spans' resource.

    ``timeout_seconds`` limits one request. The certificates and the key are paths of PEM files.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = _ANSWER_SECONDS
    gzip: bool = False
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    resource: Mapping[str, str] = field(default_factory=dict)


def span_destination(
    endpoint: str | None, environment: Mapping[str, str]
) -> SpanDestination | None:
    """Return the destination of spans, or None if none is configured.

    ``endpoint`` (a base URL) takes precedence over the endpoints in ``environment``, the variables
    OTEL_* of the process.

    Raises:
        ValueError: a variable is invalid; the message names it, without its value if that may be
            secret.
    """
    variables = {name: value.strip() for name, value in environment.items() if value.strip()}
    url = _traces_url(endpoint, variables)
    if url is None or variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    return SpanDestination(
        url=url,
        headers=dict(_pairs(*_either(variables, "HEADERS"))),
        timeout_seconds=_timeout_seconds(variables),
        gzip=_choice(variables, "COMPRESSION", ("none", "gzip")) == "gzip",
        certificate=_either(variables, "CERTIFICATE")[1],
        client_certificate=_either(variables, "CLIENT_CERTIFICATE")[1],
        client_key=_either(variables, "CLIENT_KEY")[1],
        resource=_resource(variables),
    )


def _traces_url(endpoint: str | None, variables: Mapping[str, str]) -> str | None:
    if endpoint:
        return _checked("HOLDFAST_OTLP_ENDPOINT", f"{endpoint.rstrip('/')}/v1/traces")
    if variables.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    name, value = _either(variables, "ENDPOINT")
    if value is None:
        return None
    _choice(variables, "PROTOCOL", (_PROTOCOL,))
    if name == f"{_PREFIX}ENDPOINT":  # a base URL; that of traces is used as it is
        value = f"{value.rstrip('/')}/v1/traces"
    return _checked(name, value)


def _checked(name: str, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{name} is not an HTTP URL such as http://127.0.0.1:4318")
    return url


def _either(variables: Mapping[str, str], suffix: str) -> tuple[str, str | None]:
    """Return the name and value of the variable of traces if it is set, else of all signals."""
    names = (f"{_PREFIX}TRACES_{suffix}", f"{_PREFIX}{suffix}")
    return next(((name, variables[name]) for name in names if name in variables), (names[1], None))


def _choice(variables: Mapping[str, str], suffix: str, choices: tuple[str, ...]) -> str:
    name, value = _either(variables, suffix)
    if value is not None and value not in choices:
        raise ValueError(f"{name}={value} is not supported; use {' or '.join(choices)}")
    return value or choices[0]


def _timeout_seconds(variables: Mapping[str, str]) -> float:
    name, value = _either(variables, "TIMEOUT")
    if value is None:
        return _ANSWER_SECONDS
    if not value.isascii() or not value.isdigit() or not int(value):
        raise ValueError(f"{name}={value} is not a number of milliseconds, such as 10000")
    return int(value) / 1000


def _resource(variables: Mapping[str, str]) -> dict[str, str]:
    name = "OTEL_RESOURCE_ATTRIBUTES"
    attributes = dict(_pairs(name, variables.get(name)))
    if service := variables.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = service
    return attributes


def _pairs(name: str, value: str | None) -> list[tuple[str, str]]:
    """Decode ``key=value,key=value`` with percent-encoded values."""
    pairs = []
    for number, item in enumerate((value or "").split(","), 1):
        key, equals, text = item.partition("=")
        if not item.strip():
            continue
        decoded = unquote(text.strip())
        if not equals or not key.strip() or not decoded.isprintable():
            raise ValueError(f"{name}: item {number} is not key=value")
        pairs.append((key.strip(), decoded))
    return pairs
