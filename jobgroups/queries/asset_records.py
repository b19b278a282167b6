"""Reads assets as the Comfy API v2 names them: records of uploads, assets of our own API, outputs
of jobs.
"""

import datetime as dt
import re
from collections.abc import Collection
from typing import Any, Final, TypeAlias

from django.conf import settings
from django.db.models import Exists, OuterRef

from jobgroups.domain.access import Principal
from jobgroups.domain.clock import iso, now
from jobgroups.domain.media_types import media_type
from jobgroups.domain.output_ids import parse_output_uuid
from jobgroups.domain.states import Placement
from jobgroups.errors import AssetNotFound, BlobNotFound, OutputNotFound
from jobgroups.models import Asset, AssetRecord, Capture, ChildJob, StoredFile
from jobgroups.queries.assets import assets_of, name_of
from jobgroups.queries.outputs import OutputFile, child_output
from jobgroups.queries.visibility import visible, visible_records
from jobgroups.serializers import expires_at

_URL_VALID_FOR: Final = dt.timedelta(hours=1)

#: Its content, and its JSON object of the contract without ``url``. ``hash`` and ``size_bytes`` are
#: None of an output that is not in the storage.
NamedAsset: TypeAlias = tuple[Asset | OutputFile, dict[str, Any]]


def named_asset(asset_id: str, principal: Principal) -> NamedAsset:
    """Return an asset by its id of the Comfy API v2, or raise ``AssetNotFound``."""
    records = AssetRecord.objects.filter(visible_records(principal), pk=asset_id)
    record = records.select_related("asset").first()
    rows = assets_of(principal).filter(pk=asset_id, is_recorded_only=False)
    asset = record.asset if record else rows.first()
    if asset is None:
        return _output(asset_id, principal)
    days = settings.DIRECTOR_ASSET_DAYS
    return asset, {
        "id": asset_id,
        "hash": f"blake3:{asset.hash}",
        "size_bytes": asset.size_bytes,
        "content_type": asset.content_type,
        "file_path": record.file_path if record else name_of(asset),
        **_times(
            (record or asset).created_at, asset.used_at + dt.timedelta(days=days) if days else None
        ),
    }


def _output(asset_id: str, principal: Principal) -> NamedAsset:
    job_id, number = parse_output_uuid(asset_id) or ("", 0)
    rows = ChildJob.objects.filter(visible(principal, "group"), pk=job_id)
    child = rows.select_related("group").first()
    if child is None:
        raise AssetNotFound(asset_id)
    group = child.group
    try:
        file = child_output(group.pk, job_id, number)
    except OutputNotFound:
        raise AssetNotFound(asset_id) from None
    is_job = group.placement == Placement.POOL and group.total_count == 1
    return file, {
        "id": asset_id,
        "hash": f"blake3:{file.stored.blake3}" if file.stored else None,
        "size_bytes": file.stored.size_bytes if file.stored else None,
        "content_type": media_type(file.filename),
        "file_path": file.filename,
        "job_id": group.pk if is_job else None,
        **_times(child.completed_at or child.queued_at, expires_at(group)),
    }


def _times(created_at: dt.datetime, until: dt.datetime | None) -> dict[str, str | None]:
    return {
        "created_at": iso(created_at),
        "expires_at": iso(until) if until else None,
        "url_expires_at": url_expiry(until),
    }


def url_expiry(until: dt.datetime | None) -> str:
    """Return the ``url_expires_at`` of a content that may be deleted at a time; None: not by its
    age.
    """
    url_until = now() + _URL_VALID_FOR
    return iso(min(url_until, until or url_until))


def content_by_hash(text: str, principal: Principal) -> Asset | StoredFile:
    """Return the content with a hash of the form ``blake3:…`` that a principal sees, uploaded or
    made by a job, or raise ``BlobNotFound``.
    """
    matched = re.fullmatch(r"blake3:([0-9a-f]{64})", text.lower())
    digest = matched[1] if matched else ""
    content = assets_of(principal).filter(hash=digest).first() or _made_by_job(digest, principal)
    if content is None:
        raise BlobNotFound
    return content


def _made_by_job(digest: str, principal: Principal) -> StoredFile | None:
    rows = StoredFile.objects.filter(blake3=digest)
    if not principal.sees_all:
        captures = Capture.objects.filter(visible(principal, "child__group"), file=OuterRef("pk"))
        rows = rows.filter(Exists(captures))
    return rows.first()


def assets_by_path(paths: Collection[str], principal: Principal) -> dict[str, str]:
    """Return the id of the asset that was uploaded last under each of these paths: of those that a
    principal uploaded itself, else of those of others that it sees.
    """
    rows = AssetRecord.objects.filter(visible_records(principal), file_path__in=paths)
    rows = rows.order_by("created_at", "id")
    uploads = list(rows.values_list("file_path", "asset_id", "owner_id"))
    own = {path: asset_id for path, asset_id, owner in uploads if owner == principal.user_id}
    return {path: asset_id for path, asset_id, _ in uploads} | own
