"""Run Jaeger as a child process on loopback, with traces in memory.

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
    """Jaeger. ``port`` serves its UI and query API; traces do not survive a restart."""

    name = "jaeger"
    drops_privileges = False  # it writes no files, and its binary is in the user's cache

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
        """The URL of its UI and query API."""
        return f"http://{HOST}:{self.port}"

    @property
    def otlp_url(self) -> str:
        """The URL to which roles send spans: HOLDFAST_OTLP_ENDPOINT."""
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
            # Unused listeners get any free port.
            "admin.http": 0,
            "collector.grpc-server": 0,
            "collector.http-server": 0,
            "collector.otlp.grpc": 0,
            "query.grpc-server": 0,
        }
        argv = [str(self._binary), f"--memory.max-traces={_TRACES_MAX}", "--log-level=warn"]
        return argv + [f"--{name}.host-port={HOST}:{at}" for name, at in listeners.items()]

    def _answers(self, port: int) -> bool:
        """Return whether the query API answers and the receiver accepts an empty export."""
        protobuf = {"Content-Type": "application/x-protobuf"}
        with httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False) as client:
            try:
                services = client.get(f"http://{HOST}:{port}/api/services")
                export = client.post(f"{self.otlp_url}/v1/traces", content=b"", headers=protobuf)
            except httpx.HTTPError:
                return False
        return services.is_success and export.is_success
