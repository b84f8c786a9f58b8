"""Build Jaeger once from its Go module."""

from __future__ import annotations

from pathlib import Path

from holdfast.devstack.go_build import GoModule, built

_PROGRAM = "jaeger-all-in-one"
JAEGER = GoModule(
    title="Jaeger",
    path="github.com/jaegertracing/jaeger",
    version="v1.76.0",
    checksum="h1:sWCOOF1dr+NL0PLil7mFo3BqqQL8k4WiM7aguFbc14g=",
    commands={_PROGRAM: "./cmd/all-in-one"},
    release="1.76.0",
    stamp="github.com/jaegertracing/jaeger/internal/version.latestVersion",
    oldest_go=(1, 24),
    takes="about 2 minutes",
    asks="version",
)


def jaeger_binary(cache: Path) -> Path:
    """Return the path of Jaeger's all-in-one program, built first (2 to 4 minutes) if missing.

    Raises:
        GoBuildError: no Go toolchain is available, or the build failed.
    """
    return built(JAEGER, cache)[_PROGRAM]
