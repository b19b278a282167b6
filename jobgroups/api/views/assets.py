"""Assets: upload, list, read, delete."""

from typing import ClassVar

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from jobgroups.api.permissions import changing_owner, principal_of
from jobgroups.api.requests.query_params import AssetListQuery
from jobgroups.api.requests.upload import received_upload
from jobgroups.api.views.base import ApiView, json_response, no_content
from jobgroups.api.views.groups import page_response
from jobgroups.database.pools import file_threads, read
from jobgroups.domain.access import Right
from jobgroups.outputs.stored import file_response
from jobgroups.queries import assets
from jobgroups.services.assets import asset_delete, asset_store


class AssetListView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT
    changes_in = file_threads

    def get(self, request: Request) -> HttpResponse:
        """List assets, newest first."""
        query = AssetListQuery.read_query(request.GET)
        return page_response(request, assets.asset_list(principal_of(request), **query))

    def post(self, request: Request) -> HttpResponse:
        """Store an uploaded file."""
        principal = principal_of(request)
        with received_upload(request) as upload:
            received = upload.received()
            is_seen = assets.sees_content(received.hash, principal)
            asset, is_new = asset_store(received, owner_id=principal.user_id)
        stored = assets.serialize_asset(assets.asset_by_id(asset.pk, principal))
        created = is_new if is_seen is None else not is_seen
        return json_response({**stored, "created_new": created}, status=201 if created else 200)


class AssetView(ApiView):
    changes_in = file_threads

    def get(self, request: Request, asset_id: str) -> HttpResponse:
        """Return an asset."""
        asset = assets.asset_by_id(asset_id, principal_of(request))
        return json_response(assets.serialize_asset(asset))

    def delete(self, request: Request, asset_id: str) -> HttpResponse:
        """Delete an asset that no open group needs."""
        asset_delete(asset_id=asset_id, owner_id=changing_owner(request))
        return no_content()


class AssetByHashView(ApiView):
    """``/api/assets/by-hash/{hash}``; ``HEAD`` saves an upload"""

    def get(self, request: Request, asset_hash: str) -> HttpResponse:
        """Return the asset with a hash."""
        asset = assets.asset_by_hash(asset_hash, principal_of(request))
        return json_response(assets.serialize_asset(asset))


class AssetContentView(ApiView):
    async def get(self, request: HttpRequest, asset_id: str) -> HttpResponseBase:
        """Return the file, or the part of it that ``Range`` names."""
        asset = await read(assets.asset_by_id, asset_id, principal_of(request))
        return await file_response(
            request,
            asset.stored_name,
            name=assets.name_of(asset),
            size=asset.size_bytes,
            tag=asset.hash,
        )

    head = get
