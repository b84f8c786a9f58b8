"""Check whether a role is ready: ``python -m holdfast.runtime.healthcheck PORT``.

Exits with 0 if /readyz on that port answers 200; for containers, which have no curl. It runs every
few seconds, so it imports only the standard library.
"""

from __future__ import annotations

import http.client
import sys

_TIMEOUT_SECONDS = 2.5


def problem(port: int) -> str | None:
    """Return why the role is not ready; None if it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error!r}"
    finally:
        connection.close()
    return None if answer.status == 200 else body


if __name__ == "__main__":
    sys.exit(problem(int(sys.argv[1])))
