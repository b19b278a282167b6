"""Stores, deletes and expires assets: uploaded files, each kept once by its BLAKE3 hash."""

import contextlib
import datetime as dt
import json
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from jobgroups.database.retry import retry_on_conflict
from jobgroups.database.statements import insert
from jobgroups.domain.clock import now
from jobgroups.errors import AssetDeleted, AssetInUse, AssetNotFound, InvalidRequest
from jobgroups.models import Asset, AssetUse, JobGroup
from jobgroups.services import stored_files
from jobgroups.workflow import build_template
from jobgroups.workflow.assets import REFERENCE_TYPE, references_by_asset


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A whole uploaded file in the folder of ``stored_files.incoming_folder``."""

    path: Path
    name: str
    content_type: str
    size_bytes: int
    hash: str  #: BLAKE3 in hexadecimal digits.


def asset_store(received: ReceivedFile) -> tuple[Asset, bool]:
    """Store a received file, unless there is an asset with its content; return the asset and whether it is new."""
    moment = now()
    facts = asdict(received)
    path = facts.pop("path")
    asset = Asset(id=str(uuid.uuid4()), created_at=moment, used_at=moment, **facts)
    stored = stored_files.content_store(path, asset, known=Asset.objects.filter(hash=asset.hash).first, keep=_keep)
    return stored, stored is asset


def _keep(asset: Asset, is_new: bool) -> bool:
    if not is_new:
        return bool(Asset.objects.filter(pk=asset.pk).update(used_at=now()))
    with transaction.atomic():
        asset.save(force_insert=True)
    return True


def assets_use(group: JobGroup, asset_ids: Collection[str]) -> None:
    """Record that a new group refers to assets, in the caller's transaction; raise ``InvalidRequest`` if one is gone."""
    for asset_id in sorted(asset_ids):
        # Locks the row until the group is stored: a deletion waits and then finds the group.
        if not Asset.objects.filter(pk=asset_id).update(used_at=group.created_at):
            raise InvalidRequest(f"Asset {asset_id} was deleted. Upload the file again.")
    insert([AssetUse(group=group, asset_id=one) for one in asset_ids])


def assets_use_again(group: JobGroup) -> None:
    """Keep the assets of a group whose jobs are queued again, in the caller's transaction, or raise ``AssetDeleted``."""
    if REFERENCE_TYPE not in group.workflow_json and REFERENCE_TYPE not in group.parameters_json:
        return
    template = build_template(json.loads(group.workflow_json), json.loads(group.parameters_json))
    moment = now()
    for asset_id, (node_id, name) in sorted(references_by_asset(template.workflow).items()):
        # As in assets_use: a deletion waits, and then finds an open group.
        if not Asset.objects.filter(pk=asset_id).update(used_at=moment):
            raise AssetDeleted(node_id, name)


def asset_delete(*, asset_id: str, unused_since: dt.datetime | None = None) -> None:
    """Delete an asset and its file. ``unused_since``: only if it was not used since then.

    Raises ``AssetNotFound``, also if it was used since then, or ``AssetInUse`` if an open group refers to it.
    """
    rows = Asset.objects.filter(pk=asset_id)
    if unused_since is not None:
        rows = rows.filter(used_at__lt=unused_since)
    asset = rows.first()
    if asset is None:
        raise AssetNotFound(asset_id)
    with stored_files.marked(asset.stored_name):
        _delete_row(rows, asset_id)
        stored_files.delete_file(asset.stored_name)


@retry_on_conflict
def _delete_row(rows: QuerySet[Asset], asset_id: str) -> None:
    with transaction.atomic():
        asset = rows.select_for_update().first()
        if asset is None:
            raise AssetNotFound(asset_id)
        needing = asset.uses.filter(group__completed_at__isnull=True).first()
        if needing is not None:
            raise AssetInUse(asset_id, needing.group_id)
        asset.uses.all().delete()
        asset.delete()


def unused_assets(before: dt.datetime) -> list[str]:
    """Return the ids of the assets that were not used since ``before`` and that no open group needs."""
    needed = AssetUse.objects.filter(group__completed_at__isnull=True).values("asset_id")
    rows = Asset.objects.filter(used_at__lt=before).exclude(pk__in=needed).order_by("used_at")
    return list(rows.values_list("pk", flat=True))


def assets_expire(*, before: dt.datetime) -> int:
    """Delete the assets that were not used since ``before``; return their number."""
    count = 0
    for asset_id in unused_assets(before):
        with contextlib.suppress(AssetNotFound, AssetInUse):
            asset_delete(asset_id=asset_id, unused_since=before)
            count += 1
    return count


def clean_and_expire() -> None:
    """Do what a runner does every hour."""
    stored_files.clean()
    if settings.DIRECTOR_ASSET_DAYS:
        assets_expire(before=now() - dt.timedelta(days=settings.DIRECTOR_ASSET_DAYS))
