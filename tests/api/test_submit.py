from __future__ import annotations

import httpx


async def test_the_seeds_curl(api: httpx.AsyncClient) -> None:
    body = {
        "name": "send_email",
        "payload": {"to": "user@example.com"},
        "run_at": "2026-01-09T10:00:00",
    }
    answer = await api.post("/tasks/", json=body)
    print(answer.status_code, answer.headers, answer.text)
    assert answer.status_code == 201
