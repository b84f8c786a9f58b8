"""A real Jaeger as a child process, on loopback, with its traces in memory.

For one-machine use: ``holdfast up --trace``, ``make trace``, the tests.
"""

from __future__ import annotations

from pathlib import Path

import httpx

from holdfast.devstack.go_build import GoBuildError
from holdfast.devstack.host import HOST, EmbeddedError, cache_directory, free_port
from holdfast.devstack.jaeger_binary import jaeger_binary
from holdfast.devstack.reaper import Reaper
from holdfast.devstack.server_process import ServerProcess

_TRACES_MAX = 20_000
_ANSWER_SECONDS = 2.0


class EmbeddedJaeger(ServerProcess):
    """Jaeger. ``port`` is that of its page and query API; a restart comes back empty."""

    name = "jaeger"
    drops_privileges = False  # it writes nothing, and its program lies in the user's own cache

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        otlp_port: int = 0,
        reaper: Reaper | None = None,
    ) -> None:
        super().__init__(data_dir, port, reaper=reaper)
        self.otlp_port = otlp_port or free_port()

    @property
    def url(self) -> str:
        """Of its page and its query API."""
        return f"http://{HOST}:{self.port}"

    @property
    def otlp_url(self) -> str:
        """Where roles send their spans: HOLDFAST_OTLP_ENDPOINT."""
        return f"http://{HOST}:{self.otlp_port}"

    def _prepare(self) -> None:
        try:
            self._binary = jaeger_binary(cache_directory())
        except GoBuildError as error:
            raise EmbeddedError(str(error)) from error

    def _argv(self, port: int) -> list[str]:
        listeners = {
            "query.http-server": port,
            "collector.otlp.http": self.otlp_port,
            # Listeners that are not used get any free port.
            "admin.http": 0,
            "collector.grpc-server": 0,
            "collector.http-server": 0,
            "collector.otlp.grpc": 0,
            "query.grpc-server": 0,
        }
        argv = [str(self._binary), f"--memory.max-traces={_TRACES_MAX}", "--log-level=warn"]
        return argv + [f"--{name}.host-port={HOST}:{at}" for name, at in listeners.items()]

    def _answers(self, port: int) -> bool:
        """Its query API knows services, and its receiver takes an export (of nothing)."""
        protobuf = {"Content-Type": "application/x-protobuf"}
        with httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False) as client:
            try:
                services = client.get(f"http://{HOST}:{port}/api/services")
                taken = client.post(f"{self.otlp_url}/v1/traces", content=b"", headers=protobuf)
            except httpx.HTTPError:
                return False
        return services.is_success and taken.is_success
