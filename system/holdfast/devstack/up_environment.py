"""The environment file of `holdfast up`: the addresses of its servers, with their passwords.

Output is captured, pasted and kept in logs; this file is readable by its owner alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NAME = "environment"


def write(data_dir: Path, variables: Mapping[str, str]) -> Path:
    """Write the variables, one ``NAME=value`` a line, as a shell reads them; return the file.

    Values need no quotes: URLs made of hexadecimal passwords and loopback addresses.
    """
    path = data_dir / NAME
    path.unlink(missing_ok=True)  # its mode may be another
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in variables.items())
    return path


def read(data_dir: Path) -> dict[str, str]:
    """Return the variables of the file."""
    lines = (data_dir / NAME).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)
