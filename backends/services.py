"""The only writers of backends: registered, changed and removed by people, observed by runners.

Each write names its columns: a person's change and an observation never overwrite one another.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone

from backends.comfyui.address import BackendAddress, check_headers, normalise_url, slug_for_url
from backends.comfyui.destinations import check_url
from backends.holds import QUARANTINE_CLEARED, enabled_columns
from backends.models import Backend, FoundBackend, Reachability

#: What an id looks like; it stands in URLs, file names and logs.
BACKEND_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: ``GET /api/backends/found`` lists what discovery found.
_RESERVED_ID: Final = "found"
_MAX_URL: Final = 500
_MAX_NAME: Final = 200
_MAX_REASON: Final = 500
_MAX_VERSION: Final = 64


class BackendInvalid(ValueError):
    """What a person said of a backend cannot be. ``message`` repeats nothing of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class BackendExists(Exception):
    """The address, or the id, is registered already, as ``backend_id``."""

    def __init__(self, message: str, backend_id: str) -> None:
        super().__init__(message)
        self.message = message
        self.backend_id = backend_id


def _now() -> dt.datetime:
    """Return the time in whole milliseconds, as clients are told it."""
    moment = timezone.now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# --- said by people -------------------------------------------------------------------------------


def backend_create(
    *,
    url: str,
    backend_id: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
    enabled: bool = True,
    headers: Mapping[str, str] | None = None,
    adopted_at: dt.datetime | None = None,
) -> Backend:
    """Register a ComfyUI. One address is registered once, however it is spelled.

    Args:
        url: as ``normalise_url`` takes it; a login in it becomes a header.
        backend_id: None: made of host and port, with a number behind it if that is taken.
        name: for people; None: ``backend_id`` if it is chosen, else the address without its scheme.
        tags: what ``required_capabilities`` may ask for.
        enabled: False: it gets no work yet.
        headers: sent with every request and socket.
        adopted_at: when discovery registers it without a question; None: a person registers it.

    Raises:
        BackendInvalid: a malformed address, id or header.
        BackendExists: the address or the id is registered.
    """
    address = _permitted(url)
    if backend_id is not None and not BACKEND_ID.fullmatch(backend_id):
        raise BackendInvalid(
            "backend_id",
            "Must begin with a letter or digit and have at most 64 letters, digits, . _ or -.",
        )
    if backend_id == _RESERVED_ID:
        raise BackendInvalid("backend_id", "Is reserved for a path of the API; choose another id.")
    row = Backend(
        id=backend_id or _free_id(address.url),
        name=(name or backend_id or address.url.split("://", 1)[1])[:_MAX_NAME],
        url=address.url,
        tags=_without_repeats(tags),
        enabled=enabled,
        headers=_headers(headers, address),
        status_since=_now(),
        adopted_at=adopted_at,
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            FoundBackend.objects.filter(pk=row.url).delete()
    except IntegrityError as error:
        raise _exists(row) from error
    return row


def backend_update(
    *,
    backend_id: str,
    url: str | None = None,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    enabled: bool | None = None,
    headers: Mapping[str, str] | None = None,
) -> Backend | None:
    """Change what is named; None leaves it as it is.

    With another address what was observed is forgotten, and so are the headers unless new ones come
    along: a password is never sent to a host that it was not given for.

    Returns:
        The backend as it is now, or None: there is none with this id.

    Raises:
        BackendInvalid, BackendExists: as :func:`backend_create`.
    """
    if url is not None:
        # Before the transaction: the resolver may take a while.
        _permitted(url)
    try:
        with transaction.atomic():
            row = Backend.objects.select_for_update().filter(pk=backend_id).first()
            if row is None:
                return None
            changes = _said(name=name, tags=tags, enabled=enabled, row=row)
            changes |= _addressed(row, url, headers)
            if changes:
                Backend.objects.filter(pk=backend_id).update(**changes, adopted_at=None)
            row.refresh_from_db()
    except IntegrityError as error:
        raise _exists(Backend(id="", url=_address(url or "").url)) from error
    return row


def is_other_address(row: Backend, url: str) -> bool:
    """Return whether ``url`` is another address than the backend's, not another spelling of it.

    Raises:
        BackendInvalid: it is malformed.
    """
    return _address(url).url != row.url


def backends_ensure(words: Iterable[str]) -> list[str]:
    """Register each address that is missing, and change none that is there.

    Args:
        words: ``host``, ``host:port`` or a URL each, as in ``DIRECTOR_BACKENDS``.

    Returns:
        The ids of those that were created.

    Raises:
        BackendInvalid: an address is malformed; those before it stay registered. The message says
            which one by its number, as it may hold a password.
    """
    created: list[str] = []
    for number, word in enumerate(words, start=1):
        try:
            # One that is there is not resolved: at a start that would take a while for each.
            if not Backend.objects.filter(url=_address(word).url).exists():
                created.append(backend_create(url=word).id)
        except BackendExists:
            continue
        except BackendInvalid as error:
            raise BackendInvalid("url", f"Address {number}: {error.message}") from error
    return created


def _address(url: str) -> BackendAddress:
    try:
        address = normalise_url(url)
    except ValueError as error:
        raise BackendInvalid("url", str(error)) from error
    if len(address.url) > _MAX_URL:
        raise BackendInvalid("url", f"Must have at most {_MAX_URL} characters.")
    return address


def _permitted(url: str) -> BackendAddress:
    """Return an address to which requests may be sent."""
    address = _address(url)
    try:
        check_url(address.url)
    except ValueError as error:
        raise BackendInvalid("url", str(error)) from error
    return address


def _headers(headers: Mapping[str, str] | None, address: BackendAddress) -> dict[str, str]:
    """Return what is sent: the login of the address, and over it the headers that were named."""
    try:
        named = check_headers(headers or {})
    except ValueError as error:
        raise BackendInvalid("headers", str(error)) from error
    lower = {name.lower() for name in named}
    login = {name: v for name, v in address.headers.items() if name.lower() not in lower}
    return {**login, **named}


def _without_repeats(tags: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _free_id(url: str) -> str:
    slug = slug_for_url(url)
    taken = set(Backend.objects.filter(id__startswith=slug[:58]).values_list("id", flat=True))
    numbered = (f"{slug[:58]}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([slug], numbered) if one not in taken)


def _exists(row: Backend) -> BackendExists:
    same = Backend.objects.filter(url=row.url).first()
    if same is not None:
        return BackendExists(f"This address is registered already, as {same.id}.", same.id)
    return BackendExists("A backend with this id is registered already.", row.id)


def _said(
    *, name: str | None, tags: Sequence[str] | None, enabled: bool | None, row: Backend
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name[:_MAX_NAME]
    if tags is not None:
        changes["tags"] = _without_repeats(tags)
    if enabled is not None:
        changes |= enabled_columns(row, enabled, _now())
    return changes


def _addressed(row: Backend, url: str | None, headers: Mapping[str, str] | None) -> dict[str, Any]:
    address = BackendAddress(row.url) if url is None else _address(url)
    if address.url != row.url:
        return {"url": address.url, "headers": _headers(headers, address), **_unobserved()}
    if headers is not None:
        return {"headers": _headers(headers, address)}
    if address.authorization is None:
        return {}
    kept = {name: v for name, v in row.headers.items() if name.lower() != "authorization"}
    return {"headers": _headers(kept, address)}


def _unobserved() -> dict[str, Any]:
    """Return the columns of a backend at an address where nothing was seen yet, nor failed."""
    return {
        **QUARANTINE_CLEARED,
        "consecutive_quarantines": 0,
        "failures_reset_at": _now(),
        "reachability": Reachability.UNKNOWN.value,
        "status_reason": "",
        "status_since": _now(),
        "last_seen_at": None,
        "unreachable_since": None,
        "queue_running": 0,
        "queue_pending": 0,
        "queue_foreign": 0,
        "devices": [],
        "comfyui_version": "",
    }


# --- seen by runners ------------------------------------------------------------------------------


def backend_observed(
    *,
    backend_id: str,
    reachable: bool,
    reason: str = "",
    heard: bool | None = None,
    queue_running: int | None = None,
    queue_pending: int | None = None,
    queue_foreign: int | None = None,
    version: str | None = None,
    devices: Sequence[Mapping[str, Any]] | None = None,
    seen_at: dt.datetime | None = None,
) -> bool:
    """Store what was just seen of a backend; None leaves a column as it is.

    Args:
        backend_id: one that is gone by now is no error.
        reachable: whether it can take work.
        reason: what is wrong with it, as a clause; also what is suspected of a reachable one.
        heard: whether it answered at all; None: as ``reachable``. One that answers and is not fit
            (its worker is dead) was heard, so that nobody asks it again and believes its answer.
        queue_running: prompts that execute there, whoever's.
        queue_pending: prompts that wait there, whoever's.
        queue_foreign: those of the two that are not ours.
        version: ComfyUI's, "" where it does not say.
        devices: ``{"name", "vram_total", "vram_free"}`` each, memory in bytes or None.
        seen_at: None: now.

    Returns:
        Whether there was such a backend.
    """
    moment = seen_at or _now()
    changes: dict[str, Any] = _reachability(reachable, moment, queue_running, queue_pending)
    changes["status_reason"] = reason[:_MAX_REASON]
    if reachable if heard is None else heard:
        changes["last_seen_at"] = moment
    numbers = {"queue_running": queue_running, "queue_pending": queue_pending}
    numbers["queue_foreign"] = queue_foreign
    changes |= {name: number for name, number in numbers.items() if number is not None}
    if version is not None:
        changes["comfyui_version"] = version[:_MAX_VERSION]
    if devices is not None:
        changes["devices"] = [dict(one) for one in devices]
    return Backend.objects.filter(pk=backend_id).update(**changes) > 0


def _reachability(
    reachable: bool, moment: dt.datetime, running: int | None, pending: int | None
) -> dict[str, Any]:
    """Return the columns of a status; the row's old values decide within the same statement."""
    state = (Reachability.ONLINE if reachable else Reachability.OFFLINE).value
    same = Q(reachability=state)
    if reachable and running is not None and pending is not None:
        was_busy = Q(queue_running__gt=0) | Q(queue_pending__gt=0)
        same &= was_busy if running + pending > 0 else ~was_busy
    away_since = None if reachable else Coalesce(F("unreachable_since"), Value(moment))
    return {
        "reachability": state,
        "status_since": Case(
            When(same, then=Coalesce(F("status_since"), Value(moment))), default=Value(moment)
        ),
        "unreachable_since": away_since,
    }
