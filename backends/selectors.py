"""The only readers of backends. Sync; none of them writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backends.models import Backend


def backend_find(backend_id: str) -> Backend | None:
    """Return one backend, None where there is none with this id."""
    return Backend.objects.filter(pk=backend_id).first()


def backend_list() -> list[Backend]:
    """Return every backend, by id."""
    return list(Backend.objects.order_by("id"))


def backends_by_id(backend_ids: Iterable[str]) -> dict[str, Backend]:
    """Return those of the named backends that exist, by id."""
    return Backend.objects.in_bulk(set(backend_ids))


def backend_addresses() -> list[dict[str, Any]]:
    """Return what a runner needs to know of every backend: ``{id, url, headers, enabled}``."""
    rows = Backend.objects.order_by("id").values("id", "url", "headers", "enabled")
    return [dict(row) for row in rows]
