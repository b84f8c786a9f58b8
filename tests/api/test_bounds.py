"""The law of a request: what it may cost the API follows from its size, whatever its shape.

Each example is sent to a fresh process, whose peak memory would otherwise hide a later one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import strategies as st
from measured_api import ApiForker, MeasuredApi, api_forker

from chaos.mutants import Edit, Mutant, plant
from chaos.mutants.mutant import SOURCES
from examples import examples
from holdfast.model.ids import new_id
from holdfast.model.task import NewTask
from holdfast.settings import Settings
from holdfast.store.listing import PAGE_BYTES_MAX
from holdfast.store.store import Store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

MEMORY_FACTOR = 8
MEMORY_BYTES = 8 << 20
TURN_SECONDS = 0.1
TURN_FACTOR = 12  # on a slow machine: times what REFERENCE takes to parse there
REFERENCE = b'{"a":[' + b",".join([b'{"b":1}'] * 38_000) + b"]}"
TRIES = 3
HEALTHZ_SECONDS = 0.5
TASK_BYTES = 1 << 20
PAYLOAD = "system/holdfast/model/payload.py"
BATCH_BYTES = 8 << 20
HEAD = b'{"name":"echo","run_at":"2035-01-01T00:00:00Z"'
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Shape:
    """JSON of a kind: ``unit`` repeated, within ``opening`` and ``closing``."""

    name: str
    opening: str
    unit: str  # {n} is the number of the repetition
    closing: str

    def text(self, size: int) -> bytes:
        """Return about ``size`` bytes, at least one unit."""
        frame = len((self.opening + self.closing).encode())
        each = len(self.unit.format(n=999999).encode()) + 1
        count = max(1, (size - frame) // each)
        units = ",".join(self.unit.format(n=100000 + n) for n in range(count))
        return f"{self.opening}{units}{self.closing}".encode()


def nested(levels: int, key: str) -> tuple[str, str]:
    return f'{{"{key}":' * levels + "[", "]" + "}" * levels


BELOW = nested(48, "k" * 100)
TOO_DEEP = nested(200, "k")
PAYLOADS = (
    Shape("empty arrays", '{"a":[', "[]", "]}"),
    Shape("empty objects", '{"a":[', "{{}}", "]}"),
    Shape("small objects", '{"a":[', '{{"":0.5}}', "]}"),
    Shape("objects of a key each", '{"a":[', '{{"{n}":0}}', "]}"),
    Shape("small arrays", '{"a":[', "[7]", "]}"),
    Shape("digits", '{"a":[', "1", "]}"),
    Shape("negative numbers", '{"a":[', "-9", "]}"),
    Shape("numbers", '{"a":[', "3.5", "]}"),
    Shape("long numbers", '{"a":[', "1234567890123456789", "]}"),
    Shape("too long numbers", '{"a":[', "12345678901234567890123", "]}"),
    Shape("not numbers", '{"a":[', "NaN", "]}"),
    Shape("strings", '{"a":[', '"ab"', "]}"),
    Shape("strings like JSON", '{"a":[', '",[{{"', "]}"),
    Shape("escapes", '{"a":["', '\\n\\u00e9\\"', '"]}'),
    Shape("nulls in text", '{"a":[', '"\\u0000"', "]}"),
    Shape("surrogates", '{"a":[', '"\\ud800"', "]}"),
    Shape("wide text", '{"a":"\U0001f600', "x" * 1000, '"}'),
    Shape("wide texts", '{"a":[', '"\U0001f600abcdefgh"', "]}"),
    Shape("foreign text", '{"a":"', "\u4e16\u754c" * 500, '"}'),
    Shape("keys", "{", '"{n}":0', "}"),
    Shape("escaped keys", "{", '"\\u00e9\\n{n}~/":0', "}"),
    Shape("wide keys", "{", '"\U0001f600{n}":0', "}"),
    Shape("below long keys", BELOW[0] + "[]," * 101, "1", BELOW[1]),
    Shape("deep", '{"a":[', '{{"":' * 40 + "0" + "}}" * 40, "]}"),
    Shape("brackets and strings", '{"a":', '{{[{{""', "}"),
    Shape("too deep", TOO_DEEP[0], "1", TOO_DEEP[1]),
    Shape("rows", '{"a":[', '{{"id":{n},"name":"customer {n}","ok":true,"v":1.5}}', "]}"),
    Shape("malformed at the end", '{"a":[', "[1]", "}"),
    Shape("empty strings", '{"a":[', '""', "]}"),
    Shape("surrogate at the end", '{"a":[', '{{"b":1}}', ',{"\\ud800":1}]}'),
    Shape("null at the end", '{"a":[', '"b"', ',"\\u0000"]}'),
    Shape("long number at the end", '{"a":[', "true", ",18446744073709551616]}"),
)
MEMBERS = (
    Shape("unknown members", "", '"f{n}":0', ""),
    Shape("unknown members with long names", "", '"\\u00e9' + "f" * 200 + '{n}":0', ""),
)
BODIES = st.sampled_from([*PAYLOADS, *MEMBERS])


@dataclass(frozen=True)
class Sent:
    """A request; ``items`` is 0 for a single task."""

    shape: Shape
    size: int
    items: int

    @property
    def path(self) -> str:
        return "/tasks/batch" if self.items else "/tasks/"

    def body(self) -> bytes:
        inner = self.size // (self.items or 1) - len(HEAD) - 20
        text = self.shape.text(inner)
        member = text if self.shape in MEMBERS else b'"payload":' + text
        task = HEAD + b"," + member + b"}"
        return b'{"tasks":[' + b",".join([task] * self.items) + b"]}" if self.items else task


SINGLES = st.builds(Sent, BODIES, st.integers(1 << 15, TASK_BYTES - 100), st.just(0))
BATCHES = st.builds(
    Sent, BODIES, st.integers(1 << 17, BATCH_BYTES - 100_000), st.sampled_from([1, 8, 9, 100, 1000])
)


@dataclass
class Probe:
    """Longest time that /healthz took."""

    worst_seconds: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def probing(self, api: MeasuredApi) -> Iterator[None]:
        with httpx.Client(base_url=api.client.base_url, timeout=60) as client:
            thread = threading.Thread(target=self._probe, args=(client,))
            thread.start()
            try:
                yield
            finally:
                self._done.set()
                thread.join()

    def _probe(self, client: httpx.Client) -> None:
        while True:
            began = time.monotonic()
            client.get("/healthz")
            self.worst_seconds = max(self.worst_seconds, time.monotonic() - began)
            if self._done.wait(0.01):
                return


def shape(name: str) -> Shape:
    return next(each for each in [*PAYLOADS, *MEMBERS] if each.name == name)


@dataclass(frozen=True)
class Cost:
    """What an API process spent on a request."""

    status: int
    peak_bytes: int
    turn_seconds: float
    healthz_seconds: float  # beyond that of an idle process

    def excess(self, size: int) -> list[str]:
        """Return where it is more than a body of ``size`` bytes allows."""
        allowed = {
            f"{self.peak_bytes / 2**20:.1f} MiB": (
                self.peak_bytes <= MEMORY_FACTOR * size + MEMORY_BYTES
            ),
            f"{self.turn_seconds:.3f} s of processor time in one turn": (
                self.turn_seconds <= TURN_SECONDS
                or self.turn_seconds <= TURN_FACTOR * reference_seconds()
            ),
            f"{self.healthz_seconds:.2f} s for /healthz": self.healthz_seconds <= HEALTHZ_SECONDS,
        }
        return [what for what, within in allowed.items() if not within]


def reference_seconds() -> float:
    """Return the processor time that this machine needs now to parse REFERENCE."""

    def once() -> float:
        began = time.process_time()
        json.loads(REFERENCE)
        return time.process_time() - began

    return min(once() for _ in range(5))


def cost(api: MeasuredApi, method: str, path: str, body: bytes = b"") -> Cost:
    idle, busy = Probe(), Probe()
    with idle.probing(api):
        api.client.get("/readyz")
    before, since = api.peak_bytes(), time.monotonic()
    with busy.probing(api):
        answer = api.client.request(method, path, content=body, headers=JSON)
    return Cost(
        answer.status_code,
        api.peak_bytes() - before,
        api.longest_turn_seconds(since),
        busy.worst_seconds - idle.worst_seconds,
    )


@pytest.fixture
def forker() -> Iterator[ApiForker]:
    with api_forker() as forker:
        yield forker


# No shrinking: each example takes seconds, and its shape says it all.
@examples(
    40,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sent=SINGLES | BATCHES)
@example(sent=Sent(shape("keys"), TASK_BYTES - 100, 0))
@example(sent=Sent(shape("digits"), 120_000, 1000))
@example(sent=Sent(shape("below long keys"), TASK_BYTES - 100, 0))
@example(sent=Sent(shape("empty arrays"), 120_000, 0))
@example(sent=Sent(shape("deep"), 200_000, 0))
@example(sent=Sent(shape("deep"), 848_869, 1))
@example(sent=Sent(shape("brackets and strings"), TASK_BYTES - 100, 0))
@example(sent=Sent(shape("objects of a key each"), 450_000, 0))
@example(sent=Sent(shape("wide text"), TASK_BYTES - 100, 0))
@example(sent=Sent(shape("wide text"), BATCH_BYTES - 100_000, 8))
@example(sent=Sent(shape("rows"), BATCH_BYTES - 100_000, 1000))
@example(sent=Sent(shape("empty arrays"), BATCH_BYTES - 100_000, 8))
@example(sent=Sent(shape("unknown members"), BATCH_BYTES - 100_000, 1))
@example(sent=Sent(shape("unknown members"), 350_000, 1000))
@example(sent=Sent(shape("empty strings"), TASK_BYTES - 100, 0))
@example(sent=Sent(shape("surrogate at the end"), 310_000, 0))
@example(sent=Sent(shape("null at the end"), 590_000, 0))
@example(sent=Sent(shape("long number at the end"), 740_000, 0))
def test_a_request_costs_what_its_size_allows(
    forker: ApiForker, settings: Settings, store: Store, tmp_path: Path, sent: Sent
) -> None:
    """Other processes may lengthen a turn: it is tried again. Memory never is."""
    body, peak_bytes = sent.body(), 0
    for _ in range(TRIES):
        with forker.measured_api(settings, tmp_path) as api:
            spent = cost(api, "POST", sent.path, body)
        peak_bytes = max(peak_bytes, spent.peak_bytes)
        spent = replace(spent, peak_bytes=peak_bytes)
        if not spent.excess(len(body)):
            break
    shown = f"{sent.shape.name}, {sent.items} items, {len(body)} bytes: {spent}"
    assert spent.status in {200, 201, 400, 413, 422}, shown
    assert spent.excess(len(body)) == [], shown


def test_the_largest_batches_at_once_fit_into_the_container(
    forker: ApiForker, settings: Settings, store: Store, tmp_path: Path
) -> None:
    """Bodies under way are bounded together; a request beyond the bound is answered 503."""
    service = yaml.safe_load((SOURCES / "docker-compose.yml").read_text())["services"]["api"]
    limit = service["deploy"]["resources"]["limits"]["memory"]
    body = Sent(shape("empty arrays"), BATCH_BYTES - 100_000, 67).body()
    with forker.measured_api(settings, tmp_path) as api, ThreadPoolExecutor(12) as clients:
        sent = [
            clients.submit(api.client.post, "/tasks/batch", content=body, headers=JSON)
            for _ in range(12)
        ]
        statuses = Counter(answer.result().status_code for answer in sent)
        peak_bytes = api.peak_bytes()
    assert set(statuses) <= {200, 503}
    assert statuses[200]
    assert peak_bytes < int(limit.removesuffix("M")) << 20


def with_pointers() -> Mutant:
    """Return the walk that built the pointer of every value."""
    return made(
        Edit(
            PAYLOAD,
            "            kind = type(value)\n",
            "            kind = type(value)\n            places.append(_pointer([*path, key]))\n",
        ),
        Edit(
            PAYLOAD,
            "    path: list[object] = []\n",
            "    path: list[object] = []\n    places: list[str] = []\n",
        ),
    )


def without_count() -> Mutant:
    """Return the parser that does not count values."""
    return made(
        Edit(PAYLOAD, "    if containers > CONTAINERS_MAX:\n", "    if containers < 0:\n"),
        Edit(PAYLOAD, "    if values > VALUES_MAX:\n", "    if values < 0:\n"),
    )


def without_page_bound() -> Mutant:
    return made(
        Edit(
            "system/holdfast/store/listing.py",
            "page.bytes + length(page.payload) < CAST(:bytes AS bigint)",
            "page.bytes < CAST(:bytes AS bigint) + 1000000000",
        )
    )


def made(*edits: Edit) -> Mutant:
    return Mutant("bounds", "the cost of a request", "unbounded", "calm", ("law",), edits)


@pytest.mark.parametrize(
    ("mutant", "sent"),
    [
        pytest.param(with_pointers(), Sent(shape("below long keys"), 250_000, 0), id="pointers"),
        pytest.param(
            without_count(), Sent(shape("empty objects"), TASK_BYTES - 100, 0), id="count"
        ),
    ],
)
def test_the_law_finds_a_removed_bound(
    forker: ApiForker,
    settings: Settings,
    store: Store,
    tmp_path: Path,
    mutant: Mutant,
    sent: Sent,
) -> None:
    body = sent.body()
    with forker.measured_api(settings, tmp_path) as api:
        sound = cost(api, "POST", sent.path, body)
    with (
        api_forker(plant(mutant, SOURCES, tmp_path / "tree")) as unbounded,
        unbounded.measured_api(settings, tmp_path) as api,
    ):
        spent = cost(api, "POST", sent.path, body)
    assert sound.excess(len(body)) == []
    assert spent.excess(len(body))


async def test_a_page_costs_no_more_than_its_bound(
    forker: ApiForker, settings: Settings, store: Store, tmp_path: Path
) -> None:
    """One page of 40 tasks of a megabyte; the law finds a page without a bound."""
    payload = b'{"a":"' + b"x" * 1_000_000 + b'"}'
    await store.submit([NewTask(new_id(), "echo", payload) for _ in range(40)], "api:test")
    with forker.measured_api(settings, tmp_path) as api:
        sound = cost(api, "GET", "/tasks/?limit=1000")
    tree = plant(without_page_bound(), SOURCES, tmp_path / "tree")
    with api_forker(tree) as unbounded, unbounded.measured_api(settings, tmp_path) as api:
        spent = cost(api, "GET", "/tasks/?limit=1000")
    assert sound.excess(PAGE_BYTES_MAX) == []
    assert spent.excess(PAGE_BYTES_MAX)
