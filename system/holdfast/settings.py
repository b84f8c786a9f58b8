"""The configuration of one process: HOLDFAST_* variables, read once and then frozen."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from holdfast.model.task import DEFAULT_NAMESPACE
from holdfast.telemetry.trace_context import TRACE_RATIO

CONNECTIONS_MAX = 2000
_PREFIX = "holdfast_"
_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/\s]*(@)|([?&]password=)[^&\s]*()")
_KEY_NAME = r"[A-Za-z0-9._-]{1,64}"


class Settings(BaseModel):
    """Every field is the variable ``HOLDFAST_<FIELD>``; arguments override the environment.

    The case of a variable's name does not matter. Unknown variables and arguments are ignored.

    Raises:
        pydantic.ValidationError: a variable is invalid, or two contradict each other.
    """

    # Errors do not show values: some are secrets.
    model_config = ConfigDict(
        frozen=True, extra="ignore", validate_default=True, hide_input_in_errors=True
    )

    label: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="Name of this process in logs and events; by default host and pid.",
    )

    # Servers
    database_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/holdfast",
        description="Postgres, the source of truth.",
    )
    database_schema: str = Field(
        "holdfast",
        pattern="^[a-z_][a-z0-9_]{0,62}$",
        description="Postgres schema of Holdfast's tables; `holdfast migrate` creates it.",
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey, for hints.")
    redis_prefix: str = Field("holdfast", description="First part of every Redis key.")

    # Leases and time
    lease_seconds: float = Field(
        15.0, gt=0, description="A worker without a heartbeat for this long is marked dead."
    )
    heartbeat_seconds: float = Field(
        3.0, gt=0, description="Time between lease renewals; at most a third of the lease."
    )
    poll_seconds: float = Field(
        1.0, gt=0, le=1.0, description="Longest sleep of a scheduler between two polls."
    )
    hint_deadline_seconds: float = Field(
        10.0, gt=0, description="A hint unclaimed for this long is republished; doubles each time."
    )
    hint_deadline_max_seconds: float = Field(
        300.0, gt=0, description="Upper limit of that doubling."
    )
    timeout_grace_seconds: float = Field(
        10.0,
        gt=0,
        description="An attempt of a live worker is reclaimed this long after its timeout. One that"
        " has not begun this long after its claim is handed back, and does not count.",
    )
    shutdown_grace_seconds: float = Field(
        20.0, ge=0, description="Time that running handlers get to end after SIGTERM."
    )
    statement_timeout_seconds: float = Field(
        10.0, gt=0, description="A statement unanswered for this long has an unknown outcome."
    )
    connect_timeout_seconds: float = Field(
        5.0, gt=0, description="Limit for opening a connection to Postgres or Redis."
    )
    submit_timeout_seconds: float = Field(
        15.0, gt=0, description="The API answers 503 to a submit not settled within this time."
    )
    unknown_name_seconds: float = Field(
        5.0,
        gt=0,
        description="Delay of a task released because its worker has no such handler, less up to a "
        "tenth; doubles each time.",
    )
    unknown_name_max_seconds: float = Field(
        300.0, gt=0, description="Upper limit of that doubling."
    )

    # Sizes
    queue_depth_max: int = Field(
        2000, gt=0, description="QUEUED tasks per queue; the rest of the backlog stays SCHEDULED."
    )
    dispatch_batch: int = Field(500, gt=0, description="Tasks dispatched by one statement.")
    sweep_batch: int = Field(500, gt=0, description="Rows handled by one sweep statement.")
    worker_concurrency: int = Field(
        100, gt=0, description="Handlers that one worker runs concurrently."
    )
    transaction_connections: int = Field(
        10, gt=0, description="Connections of one worker for ctx.transaction()."
    )
    api_connections: int = Field(10, gt=0, description="Connections of one API process.")
    body_bytes_max: int = Field(1 << 20, gt=0, description="Largest body of a single request.")
    batch_bytes_max: int = Field(8 << 20, gt=0, description="Largest body of a batch.")
    result_bytes_max: int = Field(1 << 20, gt=0, description="Largest JSON result of a handler.")

    # Policy
    queues: tuple[str, ...] = Field(("default",), description="Queues this worker reads.")
    known_queues: tuple[str, ...] = Field(
        (),
        description="Queues that take tasks before a worker has announced them, a JSON list. APIs "
        "and schedulers read it.",
    )
    max_attempts: int = Field(
        5, ge=1, le=1000, description="Attempts, unless request or handler set a limit."
    )
    max_losses: int = Field(
        3, ge=1, description="A task lost this often with its worker is poison: FAILED."
    )
    attempt_timeout_seconds: float = Field(
        300.0, gt=0, description="Timeout of an attempt, unless request or handler set one."
    )
    run_at_horizon_days: int = Field(
        3650, ge=1, le=36500, description="A run_at farther in the future than this is refused."
    )
    retention_days: float = Field(
        7.0, gt=0, description="Retention of SUCCEEDED and CANCELLED tasks and their keys."
    )
    dead_letter_retention_days: float = Field(30.0, gt=0, description="Retention of FAILED tasks.")
    accept_unknown_names: bool = Field(
        False, description="Accept tasks whose name no worker announced."
    )

    # API
    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    api_keys: dict[str, tuple[SecretStr, ...]] = Field(
        default_factory=dict,
        description="Bearer keys; without one the API listens on loopback only. A JSON object of "
        'names and secrets, {"shop": ["secret", "next-secret"]}: clients of different names may '
        "use equal idempotency keys. A JSON list has the one name default, as enqueue() has.",
    )
    api_without_keys: bool = Field(
        False,
        description="Listen beyond loopback without keys: the API, and the health and metrics port "
        "of a scheduler or worker, which checks none. Only where the network restricts access, "
        "such as a container whose port is published on loopback, or not at all.",
    )
    api_hosts: tuple[str, ...] = Field(
        (),
        description="Names under which clients reach an API without keys, or the metrics of a "
        "scheduler or worker on loopback, a JSON list; localhost and its own addresses need not be "
        "listed. A request for another Host is answered 421.",
    )
    health_host: str = Field(
        "127.0.0.1", description="Address of a scheduler's or worker's health and metrics port."
    )
    health_port: int = Field(
        0, ge=0, le=65535, description="That port; 0 picks a free one and logs it."
    )

    connections_max: int = Field(
        CONNECTIONS_MAX,
        gt=0,
        description="Open HTTP connections of one process; further ones are answered 503. Less if "
        "the limit of open files requires it.",
    )

    # Built-in handlers
    http_allowed_hosts: tuple[str, ...] = Field(
        (),
        description='Hosts http_request may call, a JSON list of "host", "host:port", "*.suffix".',
    )
    smtp_host: str = Field("127.0.0.1", description="Mail server of send_email.")
    smtp_port: int = Field(1025, ge=1, le=65535, description="Port of the mail server.")
    smtp_username: str | None = Field(None, description="User name for the mail server.")
    smtp_password: SecretStr | None = Field(None, description="Password for the mail server.")
    smtp_start_tls: bool = Field(False, description="Upgrade the connection to TLS.")
    mail_from: str = Field("holdfast@localhost", description="Sender of send_email.")

    # Telemetry
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR."
    )
    log_format: str = Field(
        "auto", pattern="^(auto|json|text)$", description="auto: text on a tty."
    )
    otlp_endpoint: str | None = Field(
        None,
        description="Base URL of an OpenTelemetry collector (OTLP over HTTP), such as "
        "http://127.0.0.1:4318. Overrides OTEL_EXPORTER_OTLP_ENDPOINT; without either no spans are "
        "recorded.",
    )
    trace_ratio: float = Field(
        TRACE_RATIO,
        ge=0,
        le=1,
        description="Share of the traces started here that are sampled; a caller's traceparent "
        "carries its own decision.",
    )
    jaeger_url: str = Field(
        "http://127.0.0.1:16686", description="Jaeger, where `holdfast trace` reads traces."
    )
    trace_export_seconds: float = Field(
        1.0, gt=0, description="Longest delay before a finished span is sent."
    )

    @classmethod
    def environment(cls) -> dict[str, str]:
        """Return the HOLDFAST_* variables by field name; scenarios override this."""
        return {
            name.lower().removeprefix(_PREFIX): value
            for name, value in os.environ.items()
            if name.lower().startswith(_PREFIX)
        }

    @classmethod
    def otel_variables(cls) -> dict[str, str]:
        """Return OpenTelemetry's variables OTEL_*; scenarios override this."""
        return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}

    @model_validator(mode="before")
    @classmethod
    def _add_environment(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        return {**cls.environment(), **arguments}

    @field_validator("api_keys", mode="before")
    @classmethod
    def _named_keys(cls, value: object) -> object:
        """Accept a plain list, and one secret in place of a list of them."""
        if isinstance(value, str):
            value = _decoded(value)
        if isinstance(value, list | tuple):
            return {DEFAULT_NAMESPACE: value} if value else {}
        if isinstance(value, dict):
            return {name: [v] if isinstance(v, str) else v for name, v in value.items()}
        raise ValueError(
            'must be a JSON object such as {"shop": ["secret", "next-secret"]}, or a JSON list'
        )

    @field_validator("api_keys")
    @classmethod
    def _keys_are_distinct(
        cls, keys: dict[str, tuple[SecretStr, ...]]
    ) -> dict[str, tuple[SecretStr, ...]]:
        for name, secrets in keys.items():
            if not re.fullmatch(_KEY_NAME, name):
                raise ValueError(f"the name {name!r} is not 1 to 64 of A-Z a-z 0-9 . _ -")
            if not secrets:
                raise ValueError(f"{name!r} has no secret: add one, or remove the name")
        every = [secret.get_secret_value() for named in keys.values() for secret in named]
        if len(set(every)) < len(every):
            raise ValueError("the same secret stands twice: each belongs to one name")
        return keys

    @field_validator("queues", "known_queues", "http_allowed_hosts", "api_hosts", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        decoded = _decoded(value)
        if isinstance(decoded, list):
            return decoded
        raise ValueError("must be a JSON list")

    @field_validator("api_hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host):
                raise ValueError(f"{host!r} is no name of a host: omit scheme, port and path")
        return hosts

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        scheme, found, _ = url.partition("://")
        if not found or scheme.split("+")[0] not in {"postgresql", "postgres"}:
            raise ValueError("must look like postgresql://user:password@host:port/database")
        return url  # store/address.py reads the rest

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must look like http://host:4318")
        return url

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError(
                f"HOLDFAST_HEARTBEAT_SECONDS={self.heartbeat_seconds} must be at most a third of "
                f"HOLDFAST_LEASE_SECONDS={self.lease_seconds}, to tolerate two lost heartbeats"
            )
        if self.worker_concurrency < len(self.queues) or not self.queues:
            raise ValueError(
                f"HOLDFAST_QUEUES names {len(self.queues)} queues; it must name at least one and "
                f"at most HOLDFAST_WORKER_CONCURRENCY={self.worker_concurrency}"
            )
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show URLs without their passwords."""
        for name, value in super().__repr_args__():
            yield name, without_passwords(value) if isinstance(value, str) else value


def without_passwords(text: str) -> str:
    """Return a text with asterisks for the passwords of the URLs in it."""
    return _PASSWORD.sub(r"\1\3***\2", text)


def _decoded(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
