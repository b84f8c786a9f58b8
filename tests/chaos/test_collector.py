"""The collector of spans: it records exports unchanged, decodes and forwards them."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import wait_until

from chaos.history.history import HistoryWriter, read
from chaos.history.records import ArenaName, Bound, Fault, Run
from chaos.history.spans import Span, SpanEvent, SpanLink
from chaos.observers import otlp
from chaos.observers.collector import (
    FORWARD_ENDPOINT,
    Collector,
    create_collector,
    forward_exports,
    read_exports,
)
from chaos.observers.run_trace import SERVICE, run_spans

ZERO = 1_767_225_600.0
ABOUT = {"service.name": "holdfast-worker", "service.instance.id": "worker-1"}
SPAN = Span(
    name="process default",
    role="consumer",
    trace_id="a" * 32,
    span_id="b" * 16,
    parent_span_id="c" * 16,
    service="holdfast-worker",
    instance="worker-1",
    start=1.25,
    end=2.5,
    status="error",
    attributes={"holdfast.epoch": 3, "share": 0.5, "cancel": True, "names": ["x", "y"]},
    links=(SpanLink(trace_id="d" * 32, span_id="e" * 16),),
    events=(SpanEvent(name="claimed", at=1.5, attributes={"by": "worker-1"}),),
)


def export(*spans: Span) -> bytes:
    return otlp.encode(spans, ZERO, ABOUT)


def client(collector: Collector) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_collector(collector))
    return httpx.AsyncClient(transport=transport, base_url="http://collector")


async def test_each_export_is_recorded_before_the_response(tmp_path: Path) -> None:
    file = tmp_path / "spans.otlp"
    collector = Collector(file)
    async with client(collector) as http:
        plain = await http.post("/v1/traces", content=export(SPAN))
        assert read_exports(file) == [export(SPAN)]
        headers = {"content-encoding": "gzip"}
        packed = await http.post(
            "/v1/traces", content=gzip.compress(export(SPAN, SPAN)), headers=headers
        )
        assert (await http.get("/healthz")).status_code == 200
    collector.close()
    assert [plain.status_code, packed.status_code] == [200, 200]
    assert plain.headers["content-type"] == "application/x-protobuf"
    assert read_exports(file) == [export(SPAN), export(SPAN, SPAN)]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_invalid_export_is_refused_and_not_recorded(tmp_path: Path, encoding: str) -> None:
    collector = Collector(tmp_path / "spans.otlp")
    async with client(collector) as http:
        answer = await http.post(
            "/v1/traces", content=b"no spans", headers={"content-encoding": encoding}
        )
    collector.close()
    assert answer.status_code == 400
    assert read_exports(tmp_path / "spans.otlp") == []


def test_missing_file_has_no_exports(tmp_path: Path) -> None:
    assert read_exports(tmp_path / "spans.otlp") == []


def test_span_survives_encode_and_decode() -> None:
    assert list(otlp.decode([export(SPAN)], ZERO)) == [SPAN]


def test_resent_batch_counts_once_but_a_different_span_with_the_same_id_counts() -> None:
    later = replace(SPAN, end=3.0)
    assert list(otlp.decode([export(SPAN), export(SPAN, later)], ZERO)) == [SPAN, later]


def test_constant_attributes_are_omitted() -> None:
    with_constants = replace(SPAN, attributes=SPAN.attributes | {"messaging.system": "holdfast"})
    assert list(otlp.decode([export(with_constants)], ZERO)) == [SPAN]


def test_span_in_a_history_reads_back(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history.jsonl") as writer:
        writer.write(SPAN)
    assert list(read(tmp_path / "history.jsonl")) == [SPAN]


def run_record(seed: int = 7) -> Run:
    return Run(
        scenario={"id": "calm"},
        seed=seed,
        arena=ArenaName.LIVE,
        database_epoch="2026-01-01T00:00:00Z",
        bound=Bound(seconds=1.0, terms=()),
        settings={},
    )


def test_run_and_its_injections_form_one_trace() -> None:
    start = Fault(type="start", fault_id="k#1", fault="kill", targets=("worker-1",), at=1.0)
    observed = Fault(type="felt", fault_id="k#1", fault="kill", targets=("worker-1",), at=1.5)
    end = Fault(type="end", fault_id="k#1", fault="kill", targets=("worker-1",), at=2.0)
    open_ended = Fault(type="start", fault_id="p#1", fault="pause", targets=("a", "b"), at=3.0)
    whole, kill, pause = run_spans(run_record(), [start, observed, end, open_ended], 9.0)
    assert (whole.name, whole.start, whole.end) == ("run calm", 0.0, 9.0)
    assert whole.attributes == {"chaos.scenario": "calm", "chaos.seed": 7}
    assert (kill.name, kill.start, kill.end) == ("kill worker-1", 1.0, 2.0)
    assert [(event.name, event.at) for event in kill.events] == [("felt", 1.5)]
    assert (pause.name, pause.end, pause.events) == ("pause a, b", 9.0, ())
    assert {span.trace_id for span in (kill, pause)} == {whole.trace_id}
    assert {span.parent_span_id for span in (kill, pause)} == {whole.span_id}
    assert len({span.span_id for span in (whole, kill, pause)}) == 3
    assert {span.service for span in (whole, kill, pause)} == {SERVICE}
    assert run_spans(run_record(), [], 9.0) == [whole]
    assert run_spans(run_record(8), [], 9.0)[0].trace_id != whole.trace_id


class Receiver(BaseHTTPRequestHandler):
    """Accepts every request, or refuses it."""

    received: list[tuple[str, bytes]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, body))
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiver(status: int = 200) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    received: list[tuple[str, bytes]] = []
    handler = type("Handler", (Receiver,), {"received": received, "status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def test_all_spans_are_forwarded_to_the_users_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as (url, received):
        monkeypatch.setenv(FORWARD_ENDPOINT, f"{url}/")
        forward_exports([export(SPAN)] * 3)
    ((path, body),) = received
    assert path == "/v1/traces"
    assert body == export(SPAN) * 3
    assert list(otlp.decode([body], ZERO)) == [SPAN]


def test_large_exports_are_forwarded_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as (url, received):
        monkeypatch.setenv(FORWARD_ENDPOINT, url)
        forward_exports([export(SPAN)] * 9000)
    assert len(received) > 1
    assert b"".join(body for _, body in received) == export(SPAN) * 9000


def test_nothing_is_forwarded_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORWARD_ENDPOINT, raising=False)
    forward_exports([export(SPAN)])


def test_failed_forwarding_prints_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiver(status=503) as (url, _):
        monkeypatch.setenv(FORWARD_ENDPOINT, url)
        forward_exports([export(SPAN)])
    forward_exports([export(SPAN)])  # now the port is closed
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"spans were not forwarded to {url}") for line in lines] == [True, True]


def test_collector_serves_on_the_port_it_wrote(tmp_path: Path) -> None:
    file, port_file = tmp_path / "spans.otlp", tmp_path / "port"
    argv = [sys.executable, "-m", "chaos.observers.collector", "--file", str(file)]
    process = subprocess.Popen([*argv, "--port-file", str(port_file)])
    try:
        wait_until(port_file.exists)
        url = f"http://127.0.0.1:{port_file.read_text(encoding='ascii')}"
        with httpx.Client(trust_env=False, transport=httpx.HTTPTransport(retries=5)) as http:
            assert http.post(f"{url}/v1/traces", content=export(SPAN)).status_code == 200
        assert read_exports(file) == [export(SPAN)]
    finally:
        process.terminate()
        assert process.wait(10) in {0, -15}
