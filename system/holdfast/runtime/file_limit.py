"""The limit of open files of this process, which also bounds its connections."""

from __future__ import annotations

import resource

_FILES_MAX = 65_536
_OTHER_FILES = 200  # connections to Postgres, Redis and of handlers; logs


def raise_file_limit() -> int:
    """Raise the soft limit towards the hard one, which needs no privilege; return it.

    Containers commonly start with a soft limit of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _FILES_MAX if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def connections_within(file_limit: int, wanted: int) -> int:
    """Return how many HTTP connections to accept, so that files for other uses remain."""
    return min(wanted, max(file_limit - _OTHER_FILES, file_limit // 2))
