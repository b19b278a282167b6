"""Reads assets as the Comfy API v2 names them: records of uploads, assets of our own API, outputs
of jobs.
"""

import datetime as dt
import re
from collections.abc import Collection
from typing import Any, Final, TypeAlias

from django.conf import settings

from jobgroups.domain.clock import iso, now
from jobgroups.domain.media_types import media_type
from jobgroups.domain.output_ids import parse_output_uuid
from jobgroups.domain.states import Placement
from jobgroups.errors import AssetNotFound, BlobNotFound, OutputNotFound
from jobgroups.models import Asset, AssetRecord, ChildJob, StoredFile
from jobgroups.queries.outputs import OutputFile, child_output
from jobgroups.serializers import expires_at

_URL_VALID_FOR: Final = dt.timedelta(hours=1)

#: Its content, and its JSON object of the contract without ``url``. ``hash`` and ``size_bytes`` are
#: None of an output that is not in the storage.
NamedAsset: TypeAlias = tuple[Asset | OutputFile, dict[str, Any]]


def named_asset(asset_id: str) -> NamedAsset:
    """Return an asset by its id of the Comfy API v2, or raise ``AssetNotFound``."""
    record = AssetRecord.objects.filter(pk=asset_id).select_related("asset").first()
    asset = (
        record.asset
        if record
        else Asset.objects.filter(pk=asset_id, is_recorded_only=False).first()
    )
    if asset is None:
        return _output(asset_id)
    days = settings.DIRECTOR_ASSET_DAYS
    return asset, {
        "id": asset_id,
        "hash": f"blake3:{asset.hash}",
        "size_bytes": asset.size_bytes,
        "content_type": asset.content_type,
        "file_path": record.file_path if record else asset.name,
        **_times(
            (record or asset).created_at, asset.used_at + dt.timedelta(days=days) if days else None
        ),
    }


def _output(asset_id: str) -> NamedAsset:
    job_id, number = parse_output_uuid(asset_id) or ("", 0)
    child = ChildJob.objects.filter(pk=job_id).select_related("group").first()
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


def content_by_hash(text: str) -> Asset | StoredFile:
    """Return the content with a hash of the form ``blake3:…``, uploaded or made by a job, or raise
    ``BlobNotFound``.
    """
    matched = re.fullmatch(r"blake3:([0-9a-f]{64})", text.lower())
    digest = matched[1] if matched else ""
    content = (
        Asset.objects.filter(hash=digest).first()
        or StoredFile.objects.filter(blake3=digest).first()
    )
    if content is None:
        raise BlobNotFound
    return content


def assets_by_path(paths: Collection[str]) -> dict[str, str]:
    """Return the id of the asset that was uploaded last under each of these paths."""
    rows = AssetRecord.objects.filter(file_path__in=paths).order_by("created_at", "id")
    return dict(rows.values_list("file_path", "asset_id"))
