"""Probes of registered backends: several at once, within a short time; the results are stored."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any, Final

from asgiref.sync import async_to_sync

from backends import services
from backends.comfyui.probe import BackendReport, attempt
from backends.models import Backend

#: A backend whose last response is older than this is probed before it is given a child.
_FRESH_FOR: Final = dt.timedelta(seconds=10)
#: Seconds until one probe gives up, and until all of them together do.
_PROBE_TIMEOUT: Final = 1.5
_TOTAL_TIMEOUT: Final = 1.7


def needs_probe(backend: Backend, *, now: dt.datetime) -> bool:
    """Return whether a backend has not responded for 10 s, or not since it became unreachable.

    A backend that responds but is unfit (its worker is dead) needs no probe: the runner's judgement is better
    than a single response.
    """
    if backend.last_seen_at is None or backend.last_seen_at < now - _FRESH_FOR:
        return True
    return backend.unreachable_since is not None and backend.last_seen_at < backend.unreachable_since


def probe_backends(backends: Collection[Backend]) -> None:
    """Probe backends side by side, and store the results."""
    results = async_to_sync(_probe_all)(backends)
    for backend in backends:
        columns = _observed_columns(results.get(backend.id))
        services.backend_observed(backend_id=backend.id, **columns)


async def _probe_all(backends: Collection[Backend]) -> dict[str, BackendReport | str]:
    """Return each backend's report, or a sentence that says what is wrong with it."""
    results: dict[str, BackendReport | str] = {}

    async def probe(row: Backend) -> None:
        results[row.id] = await attempt(row.url, headers=row.headers, timeout=_PROBE_TIMEOUT)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TOTAL_TIMEOUT), asyncio.TaskGroup() as tasks:
            for backend in backends:
                tasks.create_task(probe(backend), name=f"probe {backend.id}")
    return results


def _observed_columns(result: BackendReport | str | None) -> Mapping[str, Any]:
    if not isinstance(result, BackendReport):
        return {"reachable": False, "reason": result or f"No answer within {_PROBE_TIMEOUT} s."}
    return {"reachable": True, "version": result.version or "", "devices": [one.to_json() for one in result.devices]}
