"""Probes of registered backends: several at once, within a short time; the results are stored by
the caller.
"""

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Any, Final, TypeAlias

from asgiref.sync import async_to_sync

from backends import services
from backends.comfyui.probe import DirectorSentence, attempt, log_times
from backends.errors import BackendExists, FieldInvalid
from backends.models import Backend, Reachability
from backends.queries import release_connection
from backends.states import STALE_AFTER

#: A backend whose last response is older than this is probed before it is given a child.
_FRESH_FOR: Final = dt.timedelta(seconds=10)
_PROBE_TIMEOUT: Final = 1.5  #: Seconds until a probe gives up.
#: The share of the timeout after which a failed probe means silence; a refusal comes at once.
_SILENT: Final = 0.8

Observation: TypeAlias = dict[str, Any]  #: Arguments of ``services.backend_observed``.

_running: Final[dict[str, Future[None]]] = {}  #: By the id of the backend that is being probed.
_guard: Final = threading.Lock()


def needs_probe(backend: Backend, *, now: dt.datetime) -> bool:
    """Return whether a backend has not responded for 10 s, or not since it became unreachable.

    A backend that responds but is unfit (its worker is dead) needs no probe: the runner's judgement
    is better than a single response.
    """
    if backend.last_seen_at is None or backend.last_seen_at < now - _FRESH_FOR:
        return True
    return (
        backend.unreachable_since is not None and backend.last_seen_at < backend.unreachable_since
    )


def was_online(backend: Backend, *, now: dt.datetime) -> bool:
    """Return whether a backend has responded within 30 s and was online then."""
    seen_at = backend.last_seen_at
    return (
        backend.reachability == Reachability.ONLINE
        and seen_at is not None
        and seen_at >= now - STALE_AFTER
    )


def probe_backends(
    backends: Collection[Backend], store: Callable[[Collection[Observation]], None]
) -> None:
    """Probe backends side by side, and have ``store`` store what was observed.

    Those that another thread is probing are not probed again; this waits until that result is
    stored.
    """
    done: Future[None] = Future()
    with _guard:
        others = {probe for backend in backends if (probe := _running.get(backend.id))}
        own = [backend for backend in backends if backend.id not in _running]
        _running.update(dict.fromkeys((backend.id for backend in own), done))
    release_connection()
    try:
        if own:
            store(async_to_sync(_probe_all)(own))
    finally:
        with _guard:
            for backend in own:
                del _running[backend.id]
        done.set_result(None)
    wait(others, timeout=2 * _PROBE_TIMEOUT)


def check_address(
    url: str, headers: Mapping[str, str] | None, backend_id: str | None = None
) -> None:
    """Raise ``FieldInvalid`` if a Director answers at an address: prompts would come back to it.
    Raise ``BackendExists`` if another backend than ``backend_id`` is the ComfyUI there.

    What else is wrong with the address is not checked.
    """
    answer = async_to_sync(attempt)(url, headers=headers, timeout=_PROBE_TIMEOUT)
    if isinstance(answer, DirectorSentence):
        raise FieldInvalid("url", answer)
    if isinstance(answer, str):
        return
    others = Backend.objects.exclude(pk=backend_id or "").exclude(reachability=Reachability.OFFLINE)
    rows = list(others)
    release_connection()
    addresses = [(url, headers), *((row.url, row.headers) for row in rows)]
    own, *logs = async_to_sync(_logs)(addresses)
    for row, times in zip(rows, logs, strict=True):
        # A line may come between the two answers, and a bar of progress replaces its last line.
        if len(own & times) > len(own | times) / 2:
            raise BackendExists(
                f"The ComfyUI at this address is registered already, as {row.name} ({row.url}).",
                row.id,
            )


async def _logs(addresses: Iterable[tuple[str, Mapping[str, str] | None]]) -> list[frozenset[str]]:
    async with asyncio.TaskGroup() as tasks:
        logs = [tasks.create_task(log_times(*address, _PROBE_TIMEOUT)) for address in addresses]
    return [log.result() for log in logs]


async def _probe_all(backends: Collection[Backend]) -> list[Observation]:
    async with asyncio.TaskGroup() as tasks:
        probes = [
            tasks.create_task(_probe(backend), name=f"probe {backend.url}") for backend in backends
        ]
    return [seen for probe in probes if (seen := probe.result())]


async def _probe(backend: Backend) -> Observation | None:
    """Return what was observed; None if that proves nothing: on a busy host the silence is this
    process's own.
    """
    began = time.monotonic()
    answer = await attempt(backend.url, headers=backend.headers, timeout=_PROBE_TIMEOUT)
    if not isinstance(answer, str):
        devices = [device.to_json() for device in answer.devices]
        seen = {"reachable": True, "version": answer.version or "", "devices": devices}
    elif time.monotonic() - began >= _SILENT * _PROBE_TIMEOUT and was_online(
        backend, now=services.current_time()
    ):
        return None
    else:
        seen = {"reachable": False, "reason": answer}
    return {"backend_id": backend.id, **seen}
