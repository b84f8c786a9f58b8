"""Build the Toxiproxy server once from its Go module, into the user's cache."""

from __future__ import annotations

from pathlib import Path

from holdfast.devstack.go_build import GoModule, built
from holdfast.devstack.host import cache_directory

_PROGRAM = "toxiproxy-server"
TOXIPROXY = GoModule(
    title="Toxiproxy",
    path="github.com/Shopify/toxiproxy/v2",
    version="v2.12.0",
    checksum="h1:d1x++lYZg/zijXPPcv7PH0MvHMzEI5aX/YuUi/Sw+yg=",
    commands={_PROGRAM: "./cmd/server"},
    release="2.12.0",
    stamp="github.com/Shopify/toxiproxy/v2.Version",
    oldest_go=(1, 23),
    takes="about 20 s",
)


def toxiproxy_binary() -> Path:
    """Return the path of the server; build it first (15 to 60 s) if it is missing.

    Raises:
        GoBuildError: no Go toolchain is available, or the build failed.
    """
    return built(TOXIPROXY, cache_directory())[_PROGRAM]
