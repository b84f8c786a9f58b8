"""All configuration of one process: read once from HOLDFAST_* variables, then frozen."""

from __future__ import annotations

import json
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from holdfast.telemetry.trace_context import TRACE_RATIO

_PREFIX = "holdfast_"


class Settings(BaseModel):
    """Every field is the variable ``HOLDFAST_<FIELD>``; arguments override the environment.

    Raises:
        pydantic.ValidationError: a variable has an impossible value, or two contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True)

    label: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="Name of this process in logs and events; host and pid where not given.",
    )

    # Where things are
    database_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/holdfast", description="Postgres, the truth."
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey, for hints.")
    redis_prefix: str = Field("holdfast", description="First part of every Redis key.")

    # Leases and time
    lease_seconds: float = Field(
        15.0, gt=0, description="A worker silent for this long is marked dead."
    )
    heartbeat_seconds: float = Field(
        3.0, gt=0, description="Time between two renewals of a lease; at most a third of it."
    )
    poll_seconds: float = Field(
        1.0, gt=0, le=1.0, description="Longest sleep of a scheduler between two looks."
    )
    hint_deadline_seconds: float = Field(
        10.0, gt=0, description="A hint not claimed by then is published again; doubles each time."
    )
    hint_deadline_max_seconds: float = Field(300.0, gt=0, description="Cap of that doubling.")
    timeout_grace_seconds: float = Field(
        10.0,
        gt=0,
        description="An attempt that a living worker let run so long past its timeout is taken "
        "back.",
    )
    shutdown_grace_seconds: float = Field(
        20.0, ge=0, description="Time that handlers get to end after SIGTERM."
    )
    statement_timeout_seconds: float = Field(
        10.0, gt=0, description="A statement unanswered for this long has an unknown outcome."
    )
    connect_timeout_seconds: float = Field(
        5.0, gt=0, description="Limit for opening a connection to Postgres or Redis."
    )
    submit_timeout_seconds: float = Field(
        15.0, gt=0, description="The API answers 503 when a submit is not settled by then."
    )

    unknown_name_seconds: float = Field(
        5.0, gt=0, description="A task whose name a worker does not know rests so long."
    )

    # Sizes
    queue_depth_max: int = Field(
        2000, gt=0, description="Tasks QUEUED per queue; the rest of a backlog waits in Postgres."
    )
    dispatch_batch: int = Field(500, gt=0, description="Tasks dispatched by one statement.")
    sweep_batch: int = Field(500, gt=0, description="Rows handled by one sweep statement.")
    worker_concurrency: int = Field(100, gt=0, description="Handlers that one worker runs at once.")
    transaction_connections: int = Field(
        10, gt=0, description="Connections of one worker for ctx.transaction()."
    )
    api_connections: int = Field(10, gt=0, description="Connections of one API process.")
    body_bytes_max: int = Field(1 << 20, gt=0, description="Largest body of a single request.")
    batch_bytes_max: int = Field(8 << 20, gt=0, description="Largest body of a batch.")
    result_bytes_max: int = Field(1 << 20, gt=0, description="Largest JSON result of a handler.")

    # Policy
    queues: tuple[str, ...] = Field(("default",), description="Queues this worker reads.")
    max_attempts: int = Field(5, ge=1, le=1000, description="Attempts where nobody says more.")
    max_losses: int = Field(
        3, ge=1, description="A task whose worker died this often is poison: FAILED."
    )
    attempt_timeout_seconds: float = Field(
        300.0, gt=0, description="Timeout of an attempt where nobody says more."
    )
    run_at_horizon_days: int = Field(
        3650, ge=1, le=36500, description="run_at farther away than this is refused."
    )
    retention_days: float = Field(
        7.0, gt=0, description="SUCCEEDED and CANCELLED tasks (and their keys) are kept so long."
    )
    dead_letter_retention_days: float = Field(
        30.0, gt=0, description="FAILED tasks are kept so long."
    )
    accept_unknown_names: bool = Field(
        False, description="Accept tasks whose name no worker ever announced."
    )

    # API
    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Bearer keys as a JSON list; without any the API listens on loopback only."
    )
    api_without_keys: bool = Field(
        False,
        description="Listen beyond loopback without keys too: only where the network itself keeps "
        "strangers out, as a container whose port is published on loopback.",
    )
    health_host: str = Field(
        "127.0.0.1", description="Address of a scheduler's or worker's health and metrics port."
    )
    health_port: int = Field(
        0, ge=0, le=65535, description="That port; 0 takes a free one and logs it."
    )

    # Built-in handlers
    http_allowed_hosts: tuple[str, ...] = Field(
        (), description='Hosts http_request may call, a JSON list; "host", "host:port", "*.suffix".'
    )
    smtp_host: str = Field("127.0.0.1", description="Mail server of send_email.")
    smtp_port: int = Field(1025, ge=1, le=65535, description="Its port.")
    smtp_username: str | None = Field(None, description="User name at the mail server.")
    smtp_password: SecretStr | None = Field(None, description="Password at the mail server.")
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
        description="Base URL of an OpenTelemetry collector (OTLP over HTTP), for example "
        "http://127.0.0.1:4318; without one no spans are recorded.",
    )
    trace_ratio: float = Field(
        TRACE_RATIO,
        ge=0,
        le=1,
        description="Share of the traces begun here that are sampled; a caller's traceparent "
        "decides for itself.",
    )
    jaeger_url: str = Field(
        "http://127.0.0.1:16686", description="Where `holdfast trace` finds traces."
    )
    trace_export_seconds: float = Field(
        1.0, gt=0, description="A finished span is sent within this time."
    )

    @classmethod
    def environment(cls) -> dict[str, str]:
        """Return the values of the HOLDFAST_* variables by the names of their fields."""
        return {
            name.lower().removeprefix(_PREFIX): value
            for name, value in os.environ.items()
            if name.lower().startswith(_PREFIX)
        }

    @model_validator(mode="before")
    @classmethod
    def _over_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {**cls.environment(), **given}

    @field_validator("queues", "api_keys", "http_allowed_hosts", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            raise ValueError("a JSON list is needed") from None

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            port_fits = parts.port is None or parts.port > 0
        except ValueError as error:
            raise ValueError(f"no URL: {error}") from error
        if parts.scheme.split("+")[0] not in {"postgresql", "postgres"} or not port_fits:
            raise ValueError("must look like postgresql://user:password@host:port/database")
        return url

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
                f"HOLDFAST_LEASE_SECONDS={self.lease_seconds}: two lost beats are no death"
            )
        if self.worker_concurrency < len(self.queues) or not self.queues:
            raise ValueError(
                f"HOLDFAST_QUEUES names {len(self.queues)} queues: it takes at least one, and at "
                f"most HOLDFAST_WORKER_CONCURRENCY={self.worker_concurrency}"
            )
        return self

    @property
    def async_database_url(self) -> str:
        """``database_url`` with the asyncpg driver named, as SQLAlchemy wants it."""
        rest = self.database_url.partition("://")[2]
        return f"postgresql+asyncpg://{rest}"
