"""Reads assets."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from backends.errors import InvalidRequest
from jobgroups.domain.shapes.assets import StoredAsset
from jobgroups.errors import AssetNotFound
from jobgroups.models import Asset
from jobgroups.queries.groups import Page, read_page
from jobgroups.serializers import shape
from jobgroups.workflow.assets import input_name


def serialize_asset(asset: Asset) -> dict[str, Any]:
    return shape(StoredAsset, asset, hash=f"blake3:{asset.hash}")


def asset_list(*, cursor: str | None, limit: int) -> Page:
    return read_page(Asset.objects.all(), serialize_asset, cursor=cursor, limit=limit)


def asset_by_id(asset_id: str) -> Asset:
    return _require_asset(Asset.objects.filter(pk=asset_id).first(), asset_id)


def asset_by_hash(text: str) -> Asset:
    matched = re.fullmatch(r"blake3:([0-9a-f]{64})", text)
    return _require_asset(
        matched and Asset.objects.filter(hash=matched[1]).first(), "with this hash"
    )


def assets_by_id(asset_ids: Collection[str]) -> dict[str, Asset]:
    return Asset.objects.in_bulk(asset_ids)


def input_names(asset_ids: Collection[str]) -> dict[str, str]:
    """Return the file names that those of the assets that exist have at a backend, by id."""
    assets = assets_by_id(asset_ids).values()
    return {asset.id: input_name(asset.hash, asset.name, asset.content_type) for asset in assets}


def check_references(references: Sequence[tuple[str, str]]) -> None:
    """Raise ``InvalidRequest``, which names each path, if some references are to assets that do not
    exist.
    """
    asset_ids = {asset_id for _, asset_id in references}
    if asset_ids and (gone := asset_ids - assets_by_id(asset_ids).keys()):
        raise references_unknown(references, gone)


def references_unknown(
    references: Sequence[tuple[str, str]], gone: Collection[str]
) -> InvalidRequest:
    message = "There is no asset with this id."
    return InvalidRequest(
        errors=[
            {"field": path, "message": message} for path, asset_id in references if asset_id in gone
        ]
    )


def _require_asset(asset: Asset | None, name: str) -> Asset:
    if asset is None:
        raise AssetNotFound(name)
    return asset
