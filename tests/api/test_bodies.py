"""Bodies that are malformed or too long are refused, never a 500."""

from __future__ import annotations

import asyncio
import re

import httpx
from waiting import until, within

from holdfast.settings import Settings

JSON = {"Content-Type": "application/json"}


REFUSED = [
    (b'{"name": "echo"', 400, "malformed-json"),
    (b"name=echo", 400, "malformed-json"),
    (b'{"name": "echo",}', 400, "malformed-json"),
    (b'\xef\xbb\xbf{"name": "echo"}', 400, "malformed-json"),
    (b'{"name": "\xff"}', 400, "malformed-json"),
    ('{"name": "echo"}'.encode("utf-16"), 400, "malformed-json"),
    (b"", 422, "invalid-request"),
    (b"null", 422, "invalid-request"),
    (b"[]", 422, "invalid-request"),
    (b'{"name": "echo", "payload": {"a": "\\u0000"}}', 422, "unstorable-payload"),
    (b'{"name": "echo", "payload": {"\\u0000": 1}}', 422, "unstorable-payload"),
    (b'{"name": "echo", "payload": {"a": "\\ud800"}}', 422, "unstorable-payload"),
    (b'{"name": "echo", "payload": {"\\udfff": 1}}', 422, "unstorable-payload"),
    (b'{"name": "echo", "\\udfff": 1}', 422, "invalid-request"),
    (b'{"name": "\\ud800"}', 422, "invalid-request"),
    (b'{"name": "echo", "payload": {"a": NaN}}', 422, "unstorable-payload"),
    (b'{"name": "echo", "payload": {"a": [1, -Infinity]}}', 422, "unstorable-payload"),
    (b'{"name": "echo", "payload": {"a": 1e999}}', 422, "unstorable-payload"),
    (b'{"name": "echo", "payload": {"a": 1' + b"0" * 30 + b"}}", 422, "unstorable-payload"),
    (b'{"name": "echo", "payload": {"a": 1' + b"0" * 9999 + b"}}", 422, "unstorable-payload"),
    (b'{"name": "echo", "priority": NaN}', 422, "invalid-request"),
    (b'{"name": "echo", "timeout_seconds": Infinity}', 422, "invalid-request"),
    (
        b'{"name": "echo", "payload": {"a": ' + b"[" * 101 + b"]" * 101 + b"}}",
        422,
        "unstorable-payload",
    ),
    (
        b'{"name": "echo", "payload": {"a": ' + b"[" * 9999 + b"]" * 9999 + b"}}",
        422,
        "unstorable-payload",
    ),
    (b"[" * 500_000, 422, "unstorable-payload"),
]


async def test_refused(api: httpx.AsyncClient) -> None:
    for content, status, slug in REFUSED:
        answer = await api.post("/tasks/", content=content, headers=JSON)
        assert answer.headers["Content-Type"] == "application/problem+json", content[:80]
        assert answer.status_code == status, content[:80]
        assert answer.json()["type"] == f"urn:holdfast:problem:{slug}", content[:80]
        in_batch = await api.post(
            "/tasks/batch", content=b'{"tasks": [' + content + b"]}", headers=JSON
        )
        if in_batch.status_code == 200:
            [result] = in_batch.json()["results"]
            assert result["problem"]["type"] == f"urn:holdfast:problem:{slug}", content[:80]
        else:
            assert in_batch.status_code in {400, 422}, content[:80]
    assert (await api.get("/tasks/")).json()["tasks"] == []


DEFECTS = [
    (b'{"name": "ec', "Unterminated string starting at line 1 column 10."),
    (b'{"name":\n"\xc3\xa4" echo}', "Expecting ',' delimiter at line 2 column 5."),
    (b'{"name": "\xff"}', "The body is not UTF-8: the byte at offset 10 is invalid."),
    (b'{"tasks": [\n{"name": "echo"},\n "\xc3\xa4", {]}', "at line 3 column 8."),
    (b'{"tasks": [\n{"name": "echo"}, {"name": "\xff"}]}', "the byte at offset 40 is invalid."),
    (b'{"tasks": [{"name": "echo"},\n {"name": "ec', "at line 2 column 11."),
]


async def test_defects_are_named(api: httpx.AsyncClient) -> None:
    for content, named in DEFECTS:
        path = "/tasks/batch" if b"tasks" in content else "/tasks/"
        answer = await api.post(path, content=content, headers=JSON)
        assert answer.status_code == 400, content
        assert named in answer.json()["detail"], content
        assert "at at" not in answer.json()["detail"], content
    digits = b'{"name": "echo", "payload": {"a": 1' + b"0" * 9999 + b"}}"
    problem = (await api.post("/tasks/", content=digits, headers=JSON)).json()
    assert "a number has more than 4300 digits." in problem["detail"]


async def test_unstorable_value_is_located(api: httpx.AsyncClient) -> None:
    content = b'{"name": "echo", "payload": {"a/b": [{"ok": 1}, {"c~d": "x\\u0000"}]}}'
    problem = (await api.post("/tasks/", content=content, headers=JSON)).json()
    assert problem["errors"][0]["pointer"] == "/payload/a~1b/1/c~0d"
    assert "NUL" in problem["detail"]


async def test_a_hundred_levels_are_accepted(api: httpx.AsyncClient) -> None:
    content = b'{"name": "echo", "payload": {"a": ' + b"[" * 99 + b"]" * 99 + b"}}"
    answer = await api.post("/tasks/", content=content, headers=JSON)
    assert answer.status_code == 201
    read = (await api.get(f"/tasks/{answer.json()['id']}")).json()
    assert read["payload"] == answer.json()["payload"]


async def test_other_content_types_are_refused(api: httpx.AsyncClient) -> None:
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        headers = {"Content-Type": kind} if kind else {}
        answer = await api.post("/tasks/", content=b'{"name": "echo"}', headers=headers)
        assert answer.status_code == 415, kind
        assert answer.json()["type"] == "urn:holdfast:problem:unsupported-media-type"
    charset = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = await api.post("/tasks/", content=b'{"name": "echo"}', headers=charset)
    assert answer.status_code == 201


async def test_body_of_exactly_the_limit_is_accepted(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    frame = b'{"name": "echo", "payload": {"a": ""}}'
    for extra, status in ((0, 201), (1, 413)):
        filler = b"x" * (settings.body_bytes_max - len(frame) + extra)
        content = frame.replace(b'""', b'"' + filler + b'"')
        assert len(content) == settings.body_bytes_max + extra
        answer = await api.post("/tasks/", content=content, headers=JSON)
        assert answer.status_code == status
        assert answer.headers["Content-Type"].startswith("application/")
    assert answer.json()["type"] == "urn:holdfast:problem:content-too-large"
    assert str(settings.body_bytes_max) in answer.json()["detail"]


async def test_streamed_bytes_are_counted_without_content_length(
    served: str, settings: Settings
) -> None:
    """A chunked endless body without Content-Length is answered once the limit is exceeded."""
    host, port = served.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await endless_upload(reader, writer, settings.body_bytes_max)
    finally:
        writer.transport.abort()


async def endless_upload(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_max: int
) -> None:
    head = "POST /tasks/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    sent = 0
    while not answer.done():
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()
        sent += 65536
        assert sent < 64 * bytes_max, "the upload was never refused"
    assert b" 413 " in await answer
    assert b"application/problem+json" in await answer
    assert sent > bytes_max
    # The connection stays usable once the rest of the body is sent.
    length = int(re.findall(rb"content-length: (\d+)", (await answer).lower())[0])
    await reader.readexactly(length)
    writer.write(b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b" 200 " in await within(reader.readuntil(b"\r\n\r\n"), lambda: "the response")


async def test_body_announced_too_long_is_refused_without_reading_it(
    served: str, settings: Settings
) -> None:
    reader, writer = await asyncio.open_connection(*served.removeprefix("http://").split(":"))
    length = settings.body_bytes_max + 1
    writer.write(
        f"POST /tasks/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
    )
    head = await within(reader.readuntil(b"\r\n\r\n"), lambda: "the response")
    assert b" 413 " in head
    writer.close()


async def test_bodies_under_way_are_bounded_together(served: str) -> None:
    """Uploads that never end hold at most 32 MiB; the next request is answered 503."""
    host, port = served.removeprefix("http://").split(":")
    head = (
        "POST /tasks/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {8 << 20}\r\n\r\n"
    ).encode()
    writers: list[asyncio.StreamWriter] = []
    answers: list[asyncio.Task[bytes]] = []
    try:
        for _ in range(6):
            reader, writer = await asyncio.open_connection(host, port)
            writers.append(writer)
            answers.append(asyncio.create_task(reader.readuntil(b"\r\n\r\n")))
            writer.write(head + b" " * (7 << 20))
            await writer.drain()
        [answered], _ = await within(
            asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED), lambda: "a refusal"
        )
        assert b" 503 " in answered.result()
        assert b"retry-after" in answered.result().lower()
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*answers, return_exceptions=True)
    async with httpx.AsyncClient(base_url=served) as client:
        await until(lambda: stored(client))


async def stored(client: httpx.AsyncClient) -> bool:
    return (await client.post("/tasks/", json={"name": "echo"})).status_code == 201
