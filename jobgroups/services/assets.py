"""Stores, deletes and expires assets: uploaded files, each kept once by its BLAKE3 hash."""

import contextlib
import datetime as dt
import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import insert
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.listener_files import USER, account_owner
from jobgroups.errors import AssetDeleted, AssetInUse, AssetNotFound
from jobgroups.models import (
    Asset,
    AssetOwner,
    AssetRecord,
    AssetUse,
    ChildJob,
    DeletedSubmission,
    InputFile,
    JobGroup,
)
from jobgroups.queries.assets import references_unknown
from jobgroups.queries.groups import group_names
from jobgroups.services import audit, stored_files
from jobgroups.workflow import build_template
from jobgroups.workflow.assets import REFERENCE_TYPE, references_by_asset
from jobgroups.workflow.batch import variation_assets

_AT_ONCE: Final = 500  #: Assets of one statement.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """A whole uploaded file in the folder of ``stored_files.incoming_folder``."""

    path: Path
    name: str
    content_type: str
    size_bytes: int
    hash: str  #: BLAKE3 in hexadecimal digits.

    @classmethod
    def of(cls, file: stored_files.IncomingFile, name: str, content_type: str) -> Self:
        """Return a closed file, whose first hash is its BLAKE3."""
        return cls(
            path=file.path,
            name=name,
            content_type=content_type,
            size_bytes=file.size_bytes,
            hash=file.hashes[0].hexdigest(),
        )


def asset_store(
    received: ReceivedFile,
    record: AssetRecord | InputFile | None = None,
    *,
    owner_id: int | None = None,
    is_upload: bool = True,
) -> tuple[Asset, bool]:
    """Store a received file, unless there is an asset with its content; return the asset and
    whether it is new.

    A new ``record`` is stored with it, and gets its asset; without one, the account of ``owner_id``
    gets an upload of its own. Content that several accounts stored has no single owner. What a user
    uploads (``is_upload``) is in the record of actions.
    """
    moment = now()
    facts = asdict(received)
    path = facts.pop("path")
    asset = Asset(
        id=str(uuid.uuid4()),
        created_at=moment,
        used_at=moment,
        is_recorded_only=record is not None,
        owner_id=owner_id,
        **facts,
    )
    known = Asset.objects.filter(hash=asset.hash).first
    keep = partial(_keep, record=record, owner_id=owner_id, name=received.name, is_upload=is_upload)
    stored = stored_files.content_store(path, asset, known=known, keep=keep)
    return stored, stored is asset


def asset_share(asset: Asset, *, owner_id: int | None, name: str) -> bool:
    """Have an account use known content as an upload of its own; return whether it is still there."""
    return _keep(asset, False, record=None, owner_id=owner_id, name=name, is_upload=False)


def _keep(
    asset: Asset,
    is_new: bool,
    *,
    record: AssetRecord | InputFile | None,
    owner_id: int | None,
    name: str,
    is_upload: bool,
) -> bool:
    changes: dict[str, Any] = {"used_at": now()} | ({} if record else {"is_recorded_only": False})
    if asset.owner_id != owner_id:
        changes["owner"] = None
    with transaction.atomic():
        if is_new:
            asset.save(force_insert=True)
        elif not Asset.objects.filter(pk=asset.pk).update(**changes):
            return False
        if asset.owner_id not in (None, owner_id) and not asset.is_recorded_only:
            _own(asset, asset.owner_id, asset.name, asset.created_at)
        if record is not None:
            record.asset = asset
            record.save(force_insert=not (isinstance(record, InputFile) and record.pk))
        elif owner_id is not None:
            _own(asset, owner_id, name, now())
        if is_upload:
            asset_id = asset.pk if record is None else str(record.pk)
            audit.record(Action.ASSET_UPLOADED, asset_id, name=name, bytes=asset.size_bytes)
    return True


def _own(asset: Asset, owner_id: int | None, name: str, moment: dt.datetime) -> None:
    AssetOwner.objects.get_or_create(
        asset=asset, owner_id=owner_id, defaults={"name": name, "created_at": moment}
    )


def assets_use(group: JobGroup, references: Sequence[tuple[str, str]]) -> None:
    """Record that a new group refers to assets, each with a path, in the caller's transaction.

    Raises ``InvalidRequest``, which names each path, if one does not exist.
    """
    asset_ids = {asset_id for _, asset_id in references}
    if gone := _use(asset_ids, group.created_at):
        raise references_unknown(references, gone)
    insert([AssetUse(group=group, asset_id=asset_id) for asset_id in asset_ids])


def assets_use_again(group: JobGroup, children: Iterable[ChildJob]) -> None:
    """Keep the assets of some children that are queued again, in the caller's transaction, or raise
    ``AssetDeleted``.
    """
    references: dict[str, tuple[str, str]] = {}
    if REFERENCE_TYPE in group.workflow_json or REFERENCE_TYPE in group.parameters_json:
        template = build_template(
            json.loads(group.workflow_json), json.loads(group.parameters_json)
        )
        references = references_by_asset(template.workflow)
    for child in children:
        if child.variation_json and REFERENCE_TYPE in child.variation_json:
            of_child = variation_assets(json.loads(child.variation_json))
            references |= {asset_id: (f"of job {child.id}", name) for name, asset_id in of_child}
    for gone in _use(references, now()):
        raise AssetDeleted(*references[gone])


def _use(asset_ids: Collection[str], moment: dt.datetime) -> list[str]:
    """Lock assets and note their use; return those that do not exist.

    The rows are locked until the group is stored: a deletion waits, and then finds an open group.
    """
    missing = []
    in_order = sorted(asset_ids)
    for first in range(0, len(in_order), _AT_ONCE):
        some = in_order[first : first + _AT_ONCE]
        rows = Asset.objects.filter(pk__in=some)
        existing = set(rows.select_for_update().order_by("pk").values_list("pk", flat=True))
        missing += [asset_id for asset_id in some if asset_id not in existing]
        rows.update(used_at=moment)
    return missing


def asset_delete(
    *, asset_id: str, unused_since: dt.datetime | None = None, owner_id: int | None = None
) -> None:
    """Delete an asset and its file.

    Args:
        unused_since: only if it was not used since then.
        owner_id: the account whose upload is deleted; the content goes with the last one. None: the
            content is deleted, whosever it is.

    Raises ``AssetNotFound``, also if it was used since then, or ``AssetInUse`` if an open group
    refers to it.
    """
    rows = Asset.objects.filter(pk=asset_id)
    if unused_since is not None:
        rows = rows.filter(used_at__lt=unused_since)
    asset = rows.first()
    if asset is None:
        raise AssetNotFound(asset_id)
    with stored_files.mark_files(asset.stored_name):
        if _delete_row(rows, asset_id, owner_id):
            stored_files.delete_file(asset.stored_name)


@retried_transaction
def _delete_row(rows: QuerySet[Asset], asset_id: str, owner_id: int | None) -> bool:
    asset = rows.select_for_update().first()
    if asset is None:
        raise AssetNotFound(asset_id)
    audit.record(Action.ASSET_DELETED, asset_id)
    if owner_id is not None and locked_disown(asset, owner_id):
        return False
    return locked_delete(asset)


def locked_disown(asset: Asset, owner_id: int) -> bool:
    """Delete what an account has of a locked asset, in the caller's transaction; return whether the
    content stays: others have it, or their open groups need it.

    Raises ``AssetInUse`` if an open group of the account needs it.
    """
    needing = JobGroup.objects.filter(asset_uses__asset=asset, completed_at__isnull=True)
    _check_unused(needing.filter(owner=owner_id))
    asset.owners.filter(owner=owner_id).delete()
    records_delete(asset.records.filter(owner=owner_id))
    asset.input_files.filter(owner=account_owner(owner_id)).delete()
    is_uploaded = asset.owners.exists() or asset.owner_id not in (None, owner_id)
    has_records = asset.records.exists() or asset.input_files.exists()
    if not (is_uploaded or has_records or needing.exists()):
        return False
    changes: dict[str, Any] = {"is_recorded_only": has_records and not is_uploaded}
    if asset.owner_id == owner_id:
        changes["owner"] = None
    Asset.objects.filter(pk=asset.pk).update(**changes)
    return True


def _check_unused(needing: QuerySet[JobGroup]) -> None:
    if count := needing.count():
        raise AssetInUse(group_names(needing), count)


def locked_delete(asset: Asset) -> bool:
    """Delete a locked row and its records in the caller's transaction, or raise ``AssetInUse``;
    return false if the content stays, as that of a file that a user saved in the editor.
    """
    _check_unused(JobGroup.objects.filter(asset_uses__asset=asset, completed_at__isnull=True))
    records_delete(asset.records.all())
    asset.uses.all().delete()
    asset.owners.all().delete()
    asset.input_files.exclude(folder=USER).delete()
    if asset.input_files.exists():
        Asset.objects.filter(pk=asset.pk).update(is_recorded_only=True, owner=None)
        return False
    asset.delete()
    return True


def records_delete(records: QuerySet[AssetRecord]) -> None:
    """Delete records in the caller's transaction. Their idempotency keys stay used."""
    keyed = records.filter(idempotency_key__isnull=False).values("idempotency_key", "created_at")
    DeletedSubmission.objects.bulk_create(
        [DeletedSubmission(**columns) for columns in keyed],
        update_conflicts=True,
        unique_fields=["submitter", "idempotency_key"],
        update_fields=["created_at"],
    )
    records.delete()


def unused_assets(before: dt.datetime) -> list[str]:
    """Return the ids of the assets that were not used since ``before``, that no open group needs,
    and that are no files that a user saved in the editor.
    """
    needed = AssetUse.objects.filter(group__completed_at__isnull=True).values("asset_id")
    saved = InputFile.objects.filter(folder=USER).values("asset_id")
    rows = Asset.objects.filter(used_at__lt=before).exclude(pk__in=needed).exclude(pk__in=saved)
    rows = rows.order_by("used_at")
    return list(rows.values_list("pk", flat=True))


def assets_expire(*, before: dt.datetime) -> int:
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
