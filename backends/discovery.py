"""ComfyUIs that a runner finds on its own machine: registered without a question, offered, or ignored.

The rule of adoption: until a first backend exists, and for ten minutes after discovery registered the
first one, each ComfyUI that is found is registered without a question; never once a person has
registered, changed or removed a backend. Afterwards it is offered, and a person adds or ignores it.

An adopted backend that leaves is taken off the list if no person changed it and no job was ever bound to
it (``jobgroups.services.backends``). It is registered again, under the same id, as soon as it answers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from backends.comfyui.address import normalise_url
from backends.comfyui.probe import BackendReport
from backends.models import Backend, Discovery, FoundBackend
from backends.services import BackendExists, BackendInvalid, backend_create

#: For how long after the first adoption further ComfyUIs are adopted: people start several in turn.
ADOPTION_WINDOW: Final = dt.timedelta(minutes=10)
#: After so long without an answer an adopted backend may leave the list.
DEPARTURE_AFTER: Final = dt.timedelta(minutes=10)
#: A found ComfyUI is offered for so long after its last answer; discovery probes every 10 s.
OFFERED_FOR: Final = dt.timedelta(seconds=40)


class NotFound(Exception):
    """No ComfyUI is offered or ignored at this address."""


def _now() -> dt.datetime:
    moment = timezone.now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# --- called by runners ----------------------------------------------------------------------------


def addresses_registered() -> dict[str, str]:
    """Return the address of each backend, with its id where it may leave if it does not answer now."""
    away = Q(adopted_at__isnull=False, unreachable_since__lte=_now() - DEPARTURE_AFTER)
    leaving = dict(Backend.objects.filter(away).values_list("url", "id"))
    return {url: leaving.get(url, "") for url in Backend.objects.values_list("url", flat=True)}


@transaction.atomic
def answers_store(*, answers: Mapping[str, BackendReport]) -> list[str]:
    """Register or offer each ComfyUI that answered and is not registered.

    Args:
        answers: by the address, normalised.

    Returns:
        The ids of the backends that were registered.
    """
    moment = _now()
    registered = set(Backend.objects.values_list("url", flat=True))
    adopts = _adopts(bool(registered), moment)
    adopted: list[str] = []
    for url, report in answers.items():
        if url in registered:
            continue
        found = FoundBackend.objects.filter(pk=url).first()
        returns = found is not None and found.backend_id != ""
        if returns or (adopts and (found is None or found.ignored_at is None)):
            adopted += _adopt(url, "" if found is None else found.backend_id, moment)
        else:
            _offer(url, report, moment)
    if adopted:
        Discovery.objects.get_or_create(defaults={"adopts_until": moment + ADOPTION_WINDOW})
    old = moment - OFFERED_FOR
    FoundBackend.objects.filter(
        ignored_at__isnull=True, backend_id="", last_seen_at__lt=old
    ).delete()
    return adopted


def _adopts(any_registered: bool, moment: dt.datetime) -> bool:
    """Return whether a found ComfyUI is registered without a question now."""
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
        # A person registered it a moment ago.
        return []
    return [row.id]


def _offer(url: str, report: BackendReport, moment: dt.datetime) -> None:
    seen = {
        "comfyui_version": (report.version or "")[:64],
        "devices": [device.to_json() for device in report.devices],
        "last_seen_at": moment,
    }
    FoundBackend.objects.update_or_create(
        pk=url, defaults=seen, create_defaults={**seen, "first_seen_at": moment}
    )


def backend_depart(*, row: Backend) -> None:
    """Take an adopted backend off the list and remember its id.

    Args:
        row: locked by the caller's transaction; it has no jobs and no person changed it.
    """
    moment = _now()
    seen = {
        "comfyui_version": row.comfyui_version,
        "devices": row.devices,
        "last_seen_at": row.last_seen_at or moment,
        "backend_id": row.id,
    }
    FoundBackend.objects.update_or_create(
        pk=row.url, defaults=seen, create_defaults={**seen, "first_seen_at": moment}
    )
    row.delete()


def adoption_end() -> None:
    """Register nothing without a question from now on."""
    Discovery.objects.update_or_create(defaults={"adopts_until": _now()})


# --- for people -----------------------------------------------------------------------------------


def found_list() -> list[FoundBackend]:
    """Return the ComfyUIs that are offered or ignored, by address."""
    rows = FoundBackend.objects.filter(backend_id="").exclude(url__in=Backend.objects.values("url"))
    fresh = Q(ignored_at__isnull=True, last_seen_at__gte=_now() - OFFERED_FOR)
    return list(rows.filter(fresh | Q(ignored_at__isnull=False)).order_by("url"))


def found_add(*, url: str) -> Backend:
    """Register a ComfyUI that is offered or ignored.

    Raises:
        BackendInvalid: the address is malformed.
        BackendExists: it is registered already.
        NotFound: no ComfyUI is offered or ignored there.
    """
    return backend_create(url=_listed(url).url)


def found_ignore(*, url: str, ignored: bool) -> FoundBackend:
    """Offer a ComfyUI no longer, or again.

    Raises:
        BackendInvalid: the address is malformed.
        NotFound: no ComfyUI is offered or ignored there.
    """
    row = _listed(url)
    if ignored != (row.ignored_at is not None):
        row.ignored_at = _now() if ignored else None
        row.save(update_fields=["ignored_at"])
    return row


def _listed(url: str) -> FoundBackend:
    try:
        address = normalise_url(url).url
    except ValueError as error:
        raise BackendInvalid("url", str(error)) from error
    row = FoundBackend.objects.filter(pk=address, backend_id="").first()
    if row is None:
        same = Backend.objects.filter(url=address).first()
        if same is not None:
            raise BackendExists(f"This address is registered already, as {same.id}.", same.id)
        raise NotFound(address)
    return row
