"""Writes of backends: users register and change them, runners store observations.

Each write names its columns: a user's change and an observation never overwrite one another.
"""

import contextlib
import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone

from backends.comfyui.address import BackendAddress, normalise_url, slug_for_url
from backends.comfyui.destinations import check_url
from backends.errors import BackendExists, FieldInvalid
from backends.hours import check_hours
from backends.models import Backend, FoundBackend, Reachability
from backends.states import Hold

#: The form of an id, which is a part of URLs, file names and logs.
_BACKEND_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: ``GET /api/backends/found`` lists the ComfyUIs that discovery found.
_RESERVED_ID: Final = "found"
_MAX_URL: Final = 500
_MAX_NAME: Final = 200
MAX_REASON: Final = 500  #: Characters of a reason.
_MAX_VERSION: Final = 64

#: Columns of a backend without a hold.
HOLD_CLEARED: Final[dict[str, Any]] = {
    "hold": Hold.NONE.value,
    "evict": False,
    "changed_reason": "",
}
#: Columns of a backend that is not quarantined. ``consecutive_quarantines`` stays: its probation
#: depends on it.
QUARANTINE_CLEARED: Final[dict[str, Any]] = {
    "quarantined_at": None,
    "quarantine_until": None,
    "quarantine_reason": "",
    "quarantine_by": "",
}


def current_time() -> dt.datetime:
    """Return the time in whole milliseconds, the precision of the API."""
    moment = timezone.now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def backend_create(
    *,
    url: str,
    backend_id: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
    enabled: bool = True,
    headers: Mapping[str, str] | None = None,
    partner_nodes_allowed: bool | None = None,
    extensions_allowed: bool | None = None,
    hours: str | None = None,
    time_zone: str | None = None,
    adopted_at: dt.datetime | None = None,
) -> Backend:
    """Register a ComfyUI. One address is registered once, however it is spelled; credentials in it
    become a header.

    Raises ``FieldInvalid`` or ``BackendExists``.

    Args:
        backend_id: None: host and port, with a number appended if that id is taken.
        name: None: ``backend_id`` if it is given, else the address without its scheme.
        tags: capabilities that a submission may require.
        hours, time_zone: when it takes jobs, see ``backends.hours``; None: always.
        adopted_at: when discovery registers it without a question; None: a user registers it.
    """
    address = _permitted_address(url)
    if backend_id is not None and not _BACKEND_ID.fullmatch(backend_id):
        raise FieldInvalid(
            "backend_id",
            "Must begin with a letter or digit and have at most 64 letters, digits, . _ or -.",
        )
    if backend_id == _RESERVED_ID:
        raise FieldInvalid("backend_id", "Is reserved for a path of the API; choose another id.")
    row = Backend(
        id=backend_id or _free_id(address.url),
        name=(name or backend_id or address.url.split("://", 1)[1])[:_MAX_NAME],
        url=address.url,
        tags=list(dict.fromkeys(tags)),
        enabled=enabled,
        headers=_headers(headers, address),
        partner_nodes_allowed=partner_nodes_allowed or False,
        extensions_allowed=extensions_allowed or False,
        **_hours(hours, time_zone),
        status_since=current_time(),
        adopted_at=adopted_at,
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            FoundBackend.objects.filter(pk=row.url).delete()
    except IntegrityError as error:
        id_taken = BackendExists("A backend with this id is registered already.", row.id)
        raise (address_taken(row.url) or id_taken) from error
    return row


def backend_update(
    *,
    backend_id: str,
    url: str | None = None,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    enabled: bool | None = None,
    headers: Mapping[str, str] | None = None,
    partner_nodes_allowed: bool | None = None,
    extensions_allowed: bool | None = None,
    hours: str | None = None,
    time_zone: str | None = None,
) -> Backend | None:
    """Change a backend; None leaves a value as it is. Raises the errors of :func:`backend_create`.

    Another address clears the observations, and the headers and the confirmations unless new ones
    are given: a password is never sent to a host that it was not given for. Without a backend with
    this id None is returned.
    """
    if url is not None:
        # Before the transaction: the resolver may take a while.
        _permitted_address(url)
    try:
        with transaction.atomic():
            row = Backend.objects.select_for_update().filter(pk=backend_id).first()
            if row is None:
                return None
            changes = _changed_fields(name=name, tags=tags, enabled=enabled, row=row)
            changes |= _address_columns(row, url, headers)
            changes |= _hours(hours, time_zone)
            confirmations = {
                "partner_nodes_allowed": partner_nodes_allowed,
                "extensions_allowed": extensions_allowed,
            }
            changes |= {name: is_on for name, is_on in confirmations.items() if is_on is not None}
            if changes:
                Backend.objects.filter(pk=backend_id).update(**changes, adopted_at=None)
            row.refresh_from_db()
    except IntegrityError as error:
        if taken := address_taken(normalise_address(url or "").url):
            raise taken from error
        raise
    return row


def backends_ensure(
    addresses: Iterable[str], check: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Register each address that is not registered, and return the ids of the new backends.

    The addresses are as in ``DIRECTOR_BACKENDS``. Raises ``FieldInvalid`` for a malformed one, or
    one for which ``check`` raises it; those before it stay registered. The message gives its
    number, since the address may contain a password.
    """
    created: list[str] = []
    for number, url in enumerate(addresses, start=1):
        try:
            # A registered address is not resolved: that would delay each start.
            if not Backend.objects.filter(url=normalise_address(url).url).exists():
                check(url)
                created.append(backend_create(url=url).id)
        except BackendExists:
            continue
        except FieldInvalid as error:
            raise FieldInvalid("url", f"Address {number}: {error.message}") from error
    return created


@contextlib.contextmanager
def _field(name: str) -> Iterator[None]:
    """Turn the error of a value into one of its field."""
    try:
        yield
    except ValueError as error:
        raise FieldInvalid(name, str(error)) from error


def normalise_address(url: str) -> BackendAddress:
    """Return the address in its one spelling, or raise ``FieldInvalid``."""
    with _field("url"):
        address = normalise_url(url)
    if len(address.url) > _MAX_URL:
        raise FieldInvalid("url", f"Must have at most {_MAX_URL} characters.")
    return address


def _permitted_address(url: str) -> BackendAddress:
    """Return a normalised address to which requests may be sent."""
    address = normalise_address(url)
    with _field("url"):
        check_url(address.url)
    return address


def _headers(headers: Mapping[str, str] | None, address: BackendAddress) -> dict[str, str]:
    with _field("headers"):
        return address.headers_with(headers or {})


def _free_id(url: str) -> str:
    slug = slug_for_url(url)
    taken = set(Backend.objects.filter(id__startswith=slug[:58]).values_list("id", flat=True))
    numbered = (f"{slug[:58]}-{number}" for number in itertools.count(2))
    return next(
        candidate for candidate in itertools.chain([slug], numbered) if candidate not in taken
    )


def address_taken(url: str) -> BackendExists | None:
    same = Backend.objects.filter(url=url).first()
    return (
        None
        if same is None
        else BackendExists(f"This address is registered already, as {same.id}.", same.id)
    )


def _hours(hours: str | None, time_zone: str | None) -> dict[str, str]:
    """Return the columns of hours that are given, or raise ``FieldInvalid``."""
    for field, problem in check_hours(hours or "", time_zone or "").items():
        raise FieldInvalid(field, problem)
    given = {"hours": hours, "time_zone": time_zone}
    return {name: value for name, value in given.items() if value is not None}


def _changed_fields(
    *, name: str | None, tags: Sequence[str] | None, enabled: bool | None, row: Backend
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name[:_MAX_NAME]
    if tags is not None:
        changes["tags"] = list(dict.fromkeys(tags))
    if enabled not in (None, row.enabled):
        # It ends every hold.
        moment = current_time()
        changes |= {
            **HOLD_CLEARED,
            "enabled": enabled,
            "status_since": moment,
            "changed_by": "",
            "changed_at": moment,
        }
    return changes


def _address_columns(
    row: Backend, url: str | None, headers: Mapping[str, str] | None
) -> dict[str, Any]:
    address = BackendAddress(row.url) if url is None else normalise_address(url)
    if address.url != row.url:
        left = {
            "partner_nodes_allowed": False,
            "extensions_allowed": False,
            **_observations_cleared(),
        }
        return {"url": address.url, "headers": _headers(headers, address), **left}
    if headers is not None:
        return {"headers": _headers(headers, address)}
    if address.authorization is None:
        return {}
    kept = {name: v for name, v in row.headers.items() if name.lower() != "authorization"}
    return {"headers": _headers(kept, address)}


def _observations_cleared() -> dict[str, Any]:
    return {
        **QUARANTINE_CLEARED,
        "consecutive_quarantines": 0,
        "failures_reset_at": current_time(),
        "reachability": Reachability.UNKNOWN.value,
        "status_reason": "",
        "status_since": current_time(),
        "last_seen_at": None,
        "unreachable_since": None,
        "queue_running": 0,
        "queue_pending": 0,
        "queue_foreign": 0,
        "devices": [],
        "comfyui_version": "",
    }


def backend_observed(
    *,
    backend_id: str,
    reachable: bool,
    reason: str = "",
    responded: bool | None = None,
    queue_running: int | None = None,
    queue_pending: int | None = None,
    queue_foreign: int | None = None,
    version: str | None = None,
    devices: Sequence[Mapping[str, Any]] | None = None,
    seen_at: dt.datetime | None = None,
) -> bool:
    """Store an observation of a backend; None leaves a column as it is. Return whether there was
    such a backend.

    Args:
        reachable: whether it can take work.
        reason: its fault, as a clause; also the suspicion against a reachable one.
        responded: whether it sent a response; None: as ``reachable``. A backend that responds but
            is unfit (its worker is dead) is not probed again by a submission, which would trust the
            response.
        queue_running, queue_pending: prompts of any client that execute or wait there.
        queue_foreign: those of the two that are not ours.
        version: ComfyUI's, "" if not known.
        devices: ``{"name", "vram_total", "vram_free"}`` each, memory in bytes or None.
        seen_at: None: now.
    """
    moment = seen_at or current_time()
    optional = {
        "last_seen_at": moment if (reachable if responded is None else responded) else None,
        "queue_running": queue_running,
        "queue_pending": queue_pending,
        "queue_foreign": queue_foreign,
        "comfyui_version": None if version is None else version[:_MAX_VERSION],
        "devices": None if devices is None else [dict(device) for device in devices],
    }
    changes = {
        **_reachability(reachable, moment, queue_running, queue_pending),
        "status_reason": reason[:MAX_REASON],
        **{name: value for name, value in optional.items() if value is not None},
    }
    return Backend.objects.filter(pk=backend_id).update(**changes) > 0


def _reachability(
    reachable: bool, moment: dt.datetime, running: int | None, pending: int | None
) -> dict[str, Any]:
    """Return the columns of a status; they depend on the row's old values, within the same
    statement.
    """
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
