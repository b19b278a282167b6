"""Probes of registered backends: several at once, within a short time; the results are stored."""

import datetime as dt
from collections.abc import Collection
from typing import Final

from asgiref.sync import async_to_sync

from backends import services
from backends.comfyui.probe import attempt_all
from backends.models import Backend

#: A backend whose last response is older than this is probed before it is given a child.
_FRESH_FOR: Final = dt.timedelta(seconds=10)
_PROBE_TIMEOUT: Final = 1.5  #: Seconds until a probe gives up.


def needs_probe(backend: Backend, *, now: dt.datetime) -> bool:
    """Return whether a backend has not responded for 10 s, or not since it became unreachable.

    A backend that responds but is unfit (its worker is dead) needs no probe: the runner's judgement is better
    than a single response.
    """
    if backend.last_seen_at is None or backend.last_seen_at < now - _FRESH_FOR:
        return True
    return backend.unreachable_since is not None and backend.last_seen_at < backend.unreachable_since


def probe_backends(backends: Collection[Backend]) -> None:
    headers = {backend.url: backend.headers for backend in backends}
    answers = async_to_sync(attempt_all)(headers, headers=headers, timeout=_PROBE_TIMEOUT)
    for backend in backends:
        answer = answers[backend.url]
        if isinstance(answer, str):
            services.backend_observed(backend_id=backend.id, reachable=False, reason=answer)
        else:
            devices = [one.to_json() for one in answer.devices]
            version = answer.version or ""
            services.backend_observed(backend_id=backend.id, reachable=True, version=version, devices=devices)
