"""Whose an object is that a path of the API names."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from backends.errors import RequestError
from jobgroups.domain.access import Owned
from jobgroups.domain.output_ids import parse_output_uuid
from jobgroups.errors import AssetNotFound, DeliveryNotFound, GroupNotFound
from jobgroups.models import (
    Asset,
    AssetOwner,
    AssetRecord,
    AssetUse,
    ChildJob,
    JobGroup,
    WebhookDelivery,
)

_MAX_DIGITS: Final = 18  #: Of the id of a delivery: more do not fit into its column.


def group_owned(group_id: str) -> Owned | None:
    """Return whose a group is; None: it does not exist."""
    columns = JobGroup.objects.filter(pk=group_id).values_list("owner_id", "shared_at").first()
    return columns and owned_by(*columns)


def owned_by(owner_id: int | None, shared_at: object) -> Owned:
    """Return whose an object with these columns is."""
    return Owned(frozenset() if owner_id is None else frozenset({owner_id}), shared_at is not None)


def _asset_owned(asset_id: str) -> Owned | None:
    """Return whose an asset is; of the Comfy API v2 it may be a record, or an output."""
    owner_ids = Asset.objects.filter(pk=asset_id).values_list("owner", flat=True)
    if owner_ids:
        others = AssetOwner.objects.filter(asset=asset_id).values_list("owner", flat=True)
        records = AssetRecord.objects.filter(asset=asset_id).values_list("owner", flat=True)
        uses = AssetUse.objects.filter(asset=asset_id, group__shared_at__isnull=False)
        return Owned(frozenset({*owner_ids, *others, *records} - {None}), uses.exists())
    of_record = AssetRecord.objects.filter(pk=asset_id).values_list("owner", flat=True)
    if of_record:
        return owned_by(of_record[0], None)
    job_id, _ = parse_output_uuid(asset_id) or ("", 0)
    of_job = ChildJob.objects.filter(pk=job_id).values_list("group__owner_id", "group__shared_at")
    return owned_by(*of_job[0]) if of_job else None


def _delivery_owned(delivery_id: str) -> Owned | None:
    if not delivery_id.isdecimal() or len(delivery_id) > _MAX_DIGITS:
        return None
    rows = WebhookDelivery.objects.filter(pk=delivery_id)
    # Not shared with its group: an address may have a secret.
    owner_ids = rows.values_list("group__owner_id", flat=True)
    return owned_by(owner_ids[0], None) if owner_ids else None


#: How to find whose an object is by the ids of a path, the first one of which that it has, and the
#: error if there is none.
_OBJECTS: Final[
    Mapping[str, tuple[Callable[[str], Owned | None], Callable[[str], RequestError]]]
] = {
    "group_id": (group_owned, GroupNotFound),
    "job_id": (group_owned, GroupNotFound),  # of the Comfy API v2, where a group has one job
    "asset_id": (_asset_owned, AssetNotFound),
    "delivery_id": (_delivery_owned, DeliveryNotFound),
}


def object_name(ids: Mapping[str, Any]) -> str | None:
    """Return which id of a path names an object that an account may own; None: it has none."""
    return next((name for name in _OBJECTS if name in ids), None)


def owned_of(ids: Mapping[str, Any]) -> Owned | None:
    """Return whose the object is that a path names; None: it names none, or one that does not
    exist.
    """
    name = object_name(ids)
    return None if name is None else _OBJECTS[name][0](ids[name])


def not_found(ids: Mapping[str, Any]) -> RequestError:
    """Return the error of a path whose object does not exist."""
    name = object_name(ids)
    if name is None:
        raise ValueError("The path names no object.")
    return _OBJECTS[name][1](ids[name])
