"""Reads assets."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from django.db.models import F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from backends.errors import InvalidRequest
from jobgroups.domain.access import Principal
from jobgroups.domain.shapes.assets import StoredAsset
from jobgroups.errors import AssetNotFound
from jobgroups.models import Asset, AssetOwner
from jobgroups.queries.groups import Page, read_page
from jobgroups.queries.visibility import visible_assets
from jobgroups.serializers import shape
from jobgroups.workflow.assets import input_name


def serialize_asset(asset: Asset) -> dict[str, Any]:
    return shape(StoredAsset, asset, hash=f"blake3:{asset.hash}", name=name_of(asset))


def name_of(asset: Asset) -> str:
    """Return the name of an asset, as the account gave it by which it was read."""
    return getattr(asset, "own_name", asset.name)


def asset_list(principal: Principal, *, cursor: str | None, limit: int) -> Page:
    """Return a page of the assets that a principal sees, newest first."""
    return read_page(assets_of(principal), serialize_asset, cursor=cursor, limit=limit)


def assets_of(principal: Principal) -> QuerySet[Asset]:
    """Return the assets that a principal sees. Its own ones have the name that it gave them."""
    if principal.sees_all:
        return Asset.objects.all()
    own = AssetOwner.objects.filter(asset=OuterRef("pk"), owner=principal.user_id)
    name = Coalesce(Subquery(own.values("name")[:1]), F("name"))
    return Asset.objects.filter(visible_assets(principal)).annotate(own_name=name)


def asset_by_id(asset_id: str, principal: Principal) -> Asset:
    return _require_asset(assets_of(principal).filter(pk=asset_id).first(), asset_id)


def sees_content(digest: str, principal: Principal) -> bool | None:
    """Return whether a principal that sees its own work alone has content with this BLAKE3.

    None: it sees all work, so whether an upload has a new row says it. Others do not learn from an
    upload that another account has the content.
    """
    return None if principal.sees_all else assets_of(principal).filter(hash=digest).exists()


def asset_by_hash(text: str, principal: Principal) -> Asset:
    matched = re.fullmatch(r"blake3:([0-9a-f]{64})", text)
    rows = assets_of(principal)
    return _require_asset(matched and rows.filter(hash=matched[1]).first(), "with this hash")


def assets_by_id(asset_ids: Collection[str]) -> dict[str, Asset]:
    return Asset.objects.in_bulk(asset_ids)


def input_names(asset_ids: Collection[str]) -> dict[str, str]:
    """Return the file names that those of the assets that exist have at a backend, by id."""
    assets = assets_by_id(asset_ids).values()
    return {asset.id: input_name(asset.hash, asset.name, asset.content_type) for asset in assets}


def check_references(references: Sequence[tuple[str, str]], principal: Principal) -> None:
    """Raise ``InvalidRequest``, which names each path, if some references are to assets that do not
    exist for a principal.
    """
    if asset_ids := {asset_id for _, asset_id in references}:
        rows = Asset.objects.filter(visible_assets(principal))
        if gone := asset_ids - rows.in_bulk(asset_ids).keys():
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
