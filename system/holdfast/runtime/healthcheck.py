"""Whether the role beside this process can work: ``python -m holdfast.runtime.healthcheck PORT``.

Ends with 0 where /readyz of that port says so, for containers, which have no curl. It is started
every few seconds: it imports what it needs and nothing of ours.
"""

from __future__ import annotations

import http.client
import sys

_TIMEOUT_SECONDS = 2.5


def problem(port: int) -> str | None:
    """Why the role cannot work; None when it can."""
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
