"""The kinds of problems in answers to HTTP requests (RFC 9457)."""

from __future__ import annotations

from dataclasses import dataclass

PROBLEM_MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem; ``slug`` is the last part of its type URI."""

    slug: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        return f"urn:holdfast:problem:{self.slug}"

    def body(self, detail: str) -> dict[str, object]:
        """Return the members that every problem has."""
        return {"type": self.uri, "title": self.title, "status": self.status, "detail": detail}
