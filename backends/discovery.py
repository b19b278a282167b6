"""Discovery: ComfyUIs on a runner's own machine are adopted, offered or ignored.

Until a first backend exists, and for ten minutes after discovery registered the first one, each
found ComfyUI is registered without a question; never once a user has registered, changed or removed
a backend. Afterwards it is offered, and a user adds or ignores it.

An adopted backend that stops answering is deleted if no user changed it and no job was ever bound
to it (``jobgroups.services.backends``). It is adopted again, under the same id, as soon as it
answers.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from django.db import transaction
from django.db.models import Q

from backends.comfyui.answers import SystemStats
from backends.errors import AddressNotFound, BackendExists
from backends.models import Backend, Discovery, FoundBackend
from backends.services import address_taken, backend_create, current_time, normalise_address

#: For how long after the first adoption further ComfyUIs are adopted: users start several in turn.
ADOPTION_WINDOW: Final = dt.timedelta(minutes=10)
#: After so long without a response an adopted backend may be deleted.
DEPARTURE_AFTER: Final = dt.timedelta(minutes=10)
#: A found ComfyUI is offered for so long after its last response; discovery probes every 10 s.
OFFERED_FOR: Final = dt.timedelta(seconds=40)


def addresses_registered() -> dict[str, str]:
    """Return the address of each backend, with its id if it may be deleted without a response now."""
    may_leave = Q(adopted_at__isnull=False, unreachable_since__lte=current_time() - DEPARTURE_AFTER)
    leaving = dict(Backend.objects.filter(may_leave).values_list("url", "id"))
    return {url: leaving.get(url, "") for url in Backend.objects.values_list("url", flat=True)}


@transaction.atomic
def answers_store(*, answers: Mapping[str, SystemStats]) -> list[str]:
    """Adopt or offer each ComfyUI that answered, by its normalised address, and is not registered.

    Returns the ids of the adopted ones.
    """
    moment = current_time()
    registered = set(Backend.objects.values_list("url", flat=True))
    adopts = _adopts(bool(registered), moment)
    adopted: list[str] = []
    for url, report in answers.items():
        if url in registered:
            continue
        known = FoundBackend.objects.filter(pk=url).first()
        returns = known is not None and known.backend_id != ""
        if returns or (adopts and (known is None or known.ignored_at is None)):
            adopted += _adopt(url, "" if known is None else known.backend_id, moment)
        else:
            _store_found(
                url,
                moment,
                comfyui_version=(report.version or "")[:64],
                devices=[device.to_json() for device in report.devices],
                last_seen_at=moment,
            )
    if adopted:
        Discovery.objects.get_or_create(defaults={"adopts_until": moment + ADOPTION_WINDOW})
    old = moment - OFFERED_FOR
    FoundBackend.objects.filter(
        ignored_at__isnull=True, backend_id="", last_seen_at__lt=old
    ).delete()
    return adopted


def _adopts(any_registered: bool, moment: dt.datetime) -> bool:
    state = Discovery.objects.first()
    if state is None:
        if any_registered:
            adoption_end()
        return not any_registered
    by_person = Backend.objects.filter(adopted_at__isnull=True)
    return moment < state.adopts_until and not by_person.exists()


def _adopt(url: str, backend_id: str, moment: dt.datetime) -> list[str]:
    is_free = backend_id != "" and not Backend.objects.filter(pk=backend_id).exists()
    try:
        row = backend_create(url=url, backend_id=backend_id if is_free else None, adopted_at=moment)
    except BackendExists:
        # A user has just registered it.
        return []
    return [row.id]


def _store_found(url: str, moment: dt.datetime, **columns: Any) -> None:
    FoundBackend.objects.update_or_create(
        pk=url, defaults=columns, create_defaults={**columns, "first_seen_at": moment}
    )


def backend_depart(*, row: Backend) -> None:
    """Delete an adopted backend and keep its id for its return.

    The row is locked by the caller's transaction; it has no jobs and no user changed it.
    """
    moment = current_time()
    _store_found(
        row.url,
        moment,
        comfyui_version=row.comfyui_version,
        devices=row.devices,
        last_seen_at=row.last_seen_at or moment,
        backend_id=row.id,
    )
    row.delete()


def adoption_end() -> None:
    Discovery.objects.update_or_create(defaults={"adopts_until": current_time()})


def found_list() -> list[FoundBackend]:
    rows = FoundBackend.objects.filter(backend_id="").exclude(url__in=Backend.objects.values("url"))
    fresh = Q(ignored_at__isnull=True, last_seen_at__gte=current_time() - OFFERED_FOR)
    return list(rows.filter(fresh | Q(ignored_at__isnull=False)).order_by("url"))


def found_add(*, url: str) -> Backend:
    """Register a ComfyUI that is offered or ignored.

    Raises ``FieldInvalid`` for a malformed address, ``BackendExists``, or ``AddressNotFound``.
    """
    return backend_create(url=_found_row(url).url)


def found_ignore(*, url: str, ignored: bool) -> FoundBackend:
    """Stop or resume offering a ComfyUI; raise ``FieldInvalid`` or ``AddressNotFound`` as
    :func:`found_add`.
    """
    row = _found_row(url)
    if ignored != (row.ignored_at is not None):
        row.ignored_at = current_time() if ignored else None
        row.save(update_fields=["ignored_at"])
    return row


def _found_row(url: str) -> FoundBackend:
    address = normalise_address(url).url
    row = FoundBackend.objects.filter(pk=address, backend_id="").first()
    if row is None:
        raise address_taken(address) or AddressNotFound
    return row
