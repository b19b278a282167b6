"""The owner of an object: the account that made it; None: it has no owner, or does not exist."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from jobgroups.models import Asset, AssetRecord, JobGroup, WebhookDelivery


def _of_group(group_id: str) -> int | None:
    return JobGroup.objects.filter(pk=group_id).values_list("owner_id", flat=True).first()


def _of_asset(asset_id: str) -> int | None:
    owner_id = Asset.objects.filter(pk=asset_id).values_list("owner_id", flat=True).first()
    return (
        owner_id
        or AssetRecord.objects.filter(pk=asset_id).values_list("owner_id", flat=True).first()
    )


def _of_delivery(delivery_id: str) -> int | None:
    captures = (
        WebhookDelivery.objects.filter(pk=delivery_id)
        if delivery_id.isdecimal()
        else WebhookDelivery.objects.none()
    )
    return captures.values_list("group__owner_id", flat=True).first()


#: How to find the owner by the ids of a path, the first one of which that it has.
_OWNERS: Final[Mapping[str, Callable[[str], int | None]]] = {
    "group_id": _of_group,
    "job_id": _of_group,  # of the Comfy API v2, where a group has one job
    "asset_id": _of_asset,
    "delivery_id": _of_delivery,
}


def owner_of(ids: Mapping[str, Any]) -> int | None:
    """Return the account whose object a path with these ids is about."""
    return next((find(ids[name]) for name, find in _OWNERS.items() if name in ids), None)
