"""A real Prometheus with the alert rules of the stack, scaled to shorter durations."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from waiting import wait_until

from holdfast.devstack.host import free_port
from holdfast.devstack.reaper import Reaper
from observability.binaries import Prometheus

CONFIG = Path(__file__).parent.parent.parent / "observability" / "prometheus"
# Divides all durations and thresholds in seconds: a minute becomes two seconds.
FACTOR = 30
SCRAPE_SECONDS = 15 / FACTOR


def scaled(rules: str) -> str:
    """Return the rules with ``for: 5m``, ``[5m]``, ``offset 5m`` and ``* 60`` divided by FACTOR."""

    def seconds(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * 60_000 // FACTOR}ms"

    return re.sub(r"(for: |\[|offset )(\d+)m\b", seconds, rules).replace("* 60", f"* 60 / {FACTOR}")


@dataclass(frozen=True)
class Server:
    """The query API of the server; instants are Unix time."""

    url: str
    targets: Path

    def instant(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        return self._ask("query", {"query": query} | ({"time": str(at)} if at else {}))

    def range(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        window = {"start": str(start), "end": str(end), "step": str(SCRAPE_SECONDS)}
        return self._ask("query_range", {"query": query} | window)

    def exemplars(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        return self._ask("query_exemplars", {"query": query, "start": str(start), "end": str(end)})

    def _ask(self, what: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.url}/api/v1/{what}", data=parameters, timeout=30).json()
        assert answer["status"] == "success", (parameters, answer)
        data = answer["data"]
        found: list[dict[str, Any]] = data["result"] if isinstance(data, dict) else data
        return found


@contextmanager
def running(programs: Prometheus, directory: Path, reaper: Reaper) -> Iterator[Server]:
    """Run a Prometheus that scrapes the ``targets``; it is ready inside the block."""
    (directory / "alerts.yml").write_text(scaled((CONFIG / "alerts.yml").read_text()))
    targets = directory / "targets" / "run.json"
    config = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    config["global"] = {
        "scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms",
        "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms",
        "evaluation_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms",
    }
    discovery = {"files": [str(directory / "targets" / "*.json")], "refresh_interval": "1s"}
    config["scrape_configs"] = [{"job_name": "holdfast-chaos", "file_sd_configs": [discovery]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    targets.parent.mkdir()
    port = free_port()
    argv = [str(programs.server), f"--config.file={directory / 'prometheus.yml'}"]
    argv += [f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    argv += ["--enable-feature=exemplar-storage", "--log.level=warn"]
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = reaper.spawn(argv, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        _until_ready(url, process, log)
        yield Server(url, targets)
    finally:
        process.terminate()
        process.wait()
        reaper.forget(process)


def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/-/ready").status_code == 200
        return False

    wait_until(ready)
