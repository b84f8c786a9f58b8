"""Entry point of the ``holdfast`` command."""

from __future__ import annotations

import gc
import traceback


def main() -> None:
    """Run the command and end the process with its exit code."""
    gc.disable()  # what imports create stays: looking for cycles among it takes a tenth of a start
    from holdfast.cli import app, leave

    code = 0
    try:
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception:  # noqa: BLE001 - a bug: report it, and wait for no thread
        traceback.print_exc()
        code = 1
    leave(code)


if __name__ == "__main__":
    main()
