"""``holdfast doctor``: check that a deployment meets the requirements of Holdfast."""

from __future__ import annotations

from collections.abc import AsyncIterator

from holdfast.settings import Settings
from holdfast.tools.check_result import CheckResult
from holdfast.tools.doctor_postgres import examine_postgres
from holdfast.tools.doctor_redis import examine_redis


async def examine(settings: Settings) -> AsyncIterator[CheckResult]:
    """Yield one result per check; a failed check is a result, not an exception."""
    async for result in examine_postgres(settings):
        yield result
    async for result in examine_redis(settings):
        yield result
