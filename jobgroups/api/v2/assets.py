"""Assets of the Comfy API v2."""

from dataclasses import replace
from typing import ClassVar

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from jobgroups.api.permissions import changing_owner, principal_of
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.upload import received_upload, stored_name, stored_type
from jobgroups.api.v2.requests import (
    MintedAsset,
    UploadedAsset,
    base_url,
    content_url,
    idempotency_key,
)
from jobgroups.api.views.base import ApiView, json_response, no_content
from jobgroups.api.views.outputs import noting_replaced, original
from jobgroups.database.pools import act, file_threads, read
from jobgroups.domain.access import Right
from jobgroups.errors import HashMismatch
from jobgroups.models import Asset
from jobgroups.outputs.download import open_file
from jobgroups.outputs.stored import file_response
from jobgroups.queries.asset_records import content_by_hash, named_asset
from jobgroups.queries.assets import sees_content
from jobgroups.queries.outputs import OutputFile
from jobgroups.services.asset_records import record_delete, record_mint, record_store


def _created_response(
    request: HttpRequest, asset_id: str, *, is_record_new: bool, is_content_new: bool
) -> HttpResponse:
    _, facts = named_asset(asset_id, principal_of(request))
    body = {**facts, "url": content_url(base_url(request), asset_id), "created_new": is_content_new}
    return json_response(body, status=201 if is_record_new else 200)


class UploadView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT
    changes_in = file_threads

    def post(self, request: Request) -> HttpResponse:
        """Store an uploaded file with a new record: 201 if its content is new."""
        key = idempotency_key(request, "v2-asset")
        with received_upload(request) as upload:
            form, file = UploadedAsset.of(upload), upload.received()
            if form.get("expected_hash", file.hash).lower().removeprefix("blake3:") != file.hash:
                raise HashMismatch
            name = stored_name(form["file_path"])
            named = replace(
                file, name=name, content_type=stored_type(form["content_type"].lower(), name)
            )
            is_seen = sees_content(file.hash, principal_of(request))
            asset_id, is_new = record_store(
                received=named,
                file_path=form["file_path"],
                idempotency_key=key,
                owner_id=principal_of(request).user_id,
            )
        created = is_new if is_seen is None else not is_seen
        return _created_response(request, asset_id, is_record_new=created, is_content_new=created)


class FromHashView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT
    changes_in = file_threads

    def post(self, request: Request) -> HttpResponse:
        """Mint a record of known content: 200 if there is one with the same path."""
        body = MintedAsset.read(json_body(request))
        asset_id, is_new = record_mint(
            content_hash=body["hash"],
            file_path=body.get("file_path"),
            principal=principal_of(request),
        )
        return _created_response(request, asset_id, is_record_new=is_new, is_content_new=False)


class ByHashView(ApiView):
    def head(self, request: Request, asset_hash: str) -> HttpResponse:
        content_by_hash(asset_hash, principal_of(request))
        return HttpResponse()


class AssetView(ApiView):
    async def get(self, request: HttpRequest, asset_id: str) -> HttpResponse:
        """Return an asset; the size of an output that is not stored yet is that of its backend."""
        content, facts = await read(named_asset, asset_id, principal_of(request))
        if isinstance(content, OutputFile) and content.stored is None:
            async with noting_replaced(content), open_file(content) as answer:
                facts["size_bytes"] = answer.length or 0
        return json_response({**facts, "url": content_url(base_url(request), asset_id)})

    async def delete(self, request: HttpRequest, asset_id: str) -> HttpResponse:
        principal, owner_id = principal_of(request), changing_owner(request)
        await act(record_delete, asset_id=asset_id, principal=principal, owner_id=owner_id)
        return no_content()


class ContentView(ApiView):
    async def get(self, request: HttpRequest, asset_id: str) -> HttpResponseBase:
        content, facts = await read(named_asset, asset_id, principal_of(request))
        if isinstance(content, Asset):
            name, size, tag = stored_name(facts["file_path"]), content.size_bytes, content.hash
            return await file_response(request, content.stored_name, name=name, size=size, tag=tag)
        async with noting_replaced(content):
            return await original(request, content, redirect=True)

    head = get
