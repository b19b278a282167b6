"""Assets of the Comfy API v2: records over content that is stored once."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import comfy_sdk
import pytest
from blake3 import blake3
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import now
from jobgroups.domain.output_ids import output_uuid
from jobgroups.errors import MissingAsset
from jobgroups.models import Asset, AssetRecord, DeletedSubmission, StoredFile
from jobgroups.services import asset_records, assets
from tests.harness import factories
from tests.harness.farm import in_thread
from tests.harness.processes import Served
from tests.outputs.conftest import Gallery, body, file, gallery  # noqa: F401 a fixture
from tests.outputs.test_captures import settled

ASSETS = "/api/v2/assets"
KEY = {"x-api-key": "correct-horse-battery"}
CONTENT = b"cat" * 1000
HASH = f"blake3:{blake3(CONTENT).hexdigest()}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environment = {"DIRECTOR_TOKEN": "correct-horse-battery", "DIRECTOR_ASSET_DAYS": "7"}
    director = Served(tmp_path_factory.mktemp("v2"), environment=environment)
    yield director
    director.close()


def files_of(served: Served) -> list[Path]:
    return list((served.data / "files" / "assets").glob("*"))


def test_sdk_uploads_once_downloads_and_deletes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", served.url)
    monkeypatch.setenv("COMFY_API_KEY", "correct-horse-battery")
    content = os.urandom(3 * 2**20 + 17)

    async def again(first: str) -> None:
        async with comfy_sdk.AsyncComfy() as comfy:
            same, other = (
                comfy.assets.from_bytes(content, filename=name)
                for name in ("photo.png", "b/кот.png")
            )
            assert (await same.commit(), same.created_new) == (first, False)
            assert (await other.commit() != first, other.created_new) == (True, False)
            found = await comfy.assets.get(other.id)
            assert (found.file_path, found.hash) == (
                "b/кот.png",
                f"blake3:{blake3(content).hexdigest()}",
            )
            await comfy.assets.delete(first)
            await other.delete()

    with comfy_sdk.Comfy() as comfy:
        made = comfy.assets.from_bytes(content, filename="photo.png")
        first = made.commit()
        assert made.created_new
        assert 6 < (made.expires_at - now()).days + 1 < 8
        path = made.get_download_url().url.removeprefix(served.url)
        part = served.ask("GET", path, headers={**KEY, "range": "bytes=5-"})
        assert (part.status_code, part.content) == (206, content[5:])
        asyncio.run(again(first))
        with pytest.raises(comfy_sdk.NotFound):
            comfy.assets.get(first)
    assert files_of(served) == []


def test_requests_at_once_with_one_key_store_one_file(served: Served) -> None:
    def send(number: int) -> Any:
        form = {"content_type": "image/png", "file_path": "a.png"}
        headers = {**KEY, "idempotency-key": "at once"}
        return served.ask(
            "POST", ASSETS, files={"file": ("a", b"%d" % number)}, data=form, headers=headers
        )

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(8)))
    assert sorted(one.status_code for one in answers) == [201, *[422] * 7]
    assert len(files_of(served)) == 1
    [made] = [one.json()["id"] for one in answers if one.status_code == 201]
    assert served.ask("DELETE", f"{ASSETS}/{made}", headers=KEY).status_code == 204


@pytest.fixture
def client(transactional_db: None, files_folder: Path) -> Client:
    return Client(headers={"host": "localhost:9820"})


def upload(client: Client, content: bytes = CONTENT, **fields: Any) -> Any:
    headers = {"idempotency-key": fields.pop("key")} if "key" in fields else {}
    sent = {"content_type": "image/png", "file_path": "photo.png", **fields}
    return client.post(
        ASSETS, {"file": SimpleUploadedFile("ignored", content), **sent}, headers=headers
    )


def mint(client: Client, **fields: Any) -> Any:
    return client.post(f"{ASSETS}/from-hash", fields, content_type="application/json")


def test_records_share_content_until_the_last_is_deleted(
    client: Client, files_folder: Path
) -> None:
    made = upload(client, tags=["input", "x"], expires_in="3600", expected_hash=HASH)
    assert (made.status_code, made.json()["created_new"]) == (201, True)
    first = made.json()["id"]
    again, renamed = upload(client), mint(client, hash=HASH, file_path="models/a.png")
    assert (again.status_code, again.json()["created_new"]) == (200, False)
    assert (renamed.status_code, renamed.json()["created_new"]) == (201, False)
    same = mint(client, hash=HASH, file_path="models/a.png", more=1)
    assert (same.status_code, same.json()["id"]) == (200, renamed.json()["id"])
    others = [again.json()["id"], renamed.json()["id"]]
    assert len({first, *others}) == 3
    for one in (first, *others):
        assert client.head(f"{ASSETS}/by-hash/{HASH}").status_code == 200
        assert client.delete(f"{ASSETS}/{one}").status_code == 204
        assert client.delete(f"{ASSETS}/{one}").status_code == 404
    assert client.head(f"{ASSETS}/by-hash/{HASH}").status_code == 404
    assert mint(client, hash=HASH).json()["error"]["code"] == "blob_not_found"
    assert not list((files_folder / "assets").iterdir())


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"expected_hash": "blake3:" + "0" * 64}, 409, "hash_mismatch"),
        ({"expires_in": "59"}, 422, "invalid_request"),
        ({"expires_in": "9" * 5000}, 422, "invalid_request"),
        ({"expires_in": "soon"}, 422, "invalid_request"),
        ({"file_path": "a\nb"}, 422, "invalid_request"),
        ({"content_type": ""}, 422, "invalid_request"),
        ({"tags": "x" * 70_000}, 422, "invalid_request"),
        ({"key": "\t"}, 422, "invalid_request"),
    ],
)
def test_invalid_upload_stores_nothing(
    client: Client, fields: dict[str, Any], status: int, code: str
) -> None:
    refused = upload(client, **fields)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert not Asset.objects.exists()


def test_idempotency_key_is_used_once_within_a_day(client: Client) -> None:
    first = upload(client, key="k").json()["id"]
    assert upload(client, b"other", key="k").json()["error"]["code"] == "idempotency_key_reuse"
    client.delete(f"{ASSETS}/{first}")
    assert upload(client, key="k").json()["error"]["code"] == "idempotency_key_reuse"
    assert upload(client, key="k2").status_code == 201
    for rows in (AssetRecord.objects, DeletedSubmission.objects):
        rows.update(created_at=now() - dt.timedelta(hours=25))
    assert [upload(client, key=key).status_code for key in ("k", "k2")] == [200, 200]


def test_content_of_our_own_api_outlives_its_records_and_is_an_asset_itself(client: Client) -> None:
    record = upload(client).json()["id"]
    own = client.post("/api/assets", {"file": SimpleUploadedFile("cat.png", CONTENT)}).json()["id"]
    assert client.delete(f"{ASSETS}/{record}").status_code == 204
    shown = client.get(f"{ASSETS}/{own}").json()
    assert (shown["id"], shown["hash"], "job_id" in shown) == (own, HASH, False)
    record = upload(client).json()["id"]
    assert [client.delete(f"{ASSETS}/{own}").status_code for _ in range(2)] == [204, 404]
    assert client.get(f"{ASSETS}/{record}").status_code == 200
    assets.assets_expire(before=now() + dt.timedelta(days=1))
    assert client.get(f"{ASSETS}/{record}").status_code == 404


def _graph(image: object) -> dict[str, Any]:
    return {
        **factories.WORKFLOW,
        "1": {"class_type": "LoadImage", "inputs": {"image": image, "upload": "image"}},
    }


def _reference(asset_id: str) -> dict[str, Any]:
    return {
        "__type": "core/ASSET",
        "info": {"id": asset_id, "hash": "ignored", "file_path": "ignored"},
    }


def test_asset_of_an_open_job_stays(client: Client) -> None:
    record = upload(client).json()["id"]
    fence = factories.online()
    group = factories.submit(workflow=asset_records.resolve(_graph(_reference(record)), EVERYBODY))
    refused = client.delete(f"{ASSETS}/{record}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "asset_in_use")
    assert factories.finish(factories.begin(fence), fence)
    assert client.delete(f"{ASSETS}/{record}").status_code == 204
    assert not group.asset_uses.exists()


@pytest.mark.parametrize(
    "wrong", [_reference("9f8a1c0d"), {"__type": "core/ASSET"}, [_reference("x")]]
)
def test_reference_without_an_asset_is_refused_with_its_input(
    client: Client, wrong: object
) -> None:
    with pytest.raises(MissingAsset) as refused:
        asset_records.resolve(_graph(wrong), EVERYBODY)
    assert [one["field"] for one in refused.value.extra["node_errors"]["1"]] == ["image"]


def test_name_of_an_uploaded_file_is_that_of_the_newest(client: Client) -> None:
    upload(client, b"old")
    newest = upload(client).json()["id"]
    graph = asset_records.resolve(_graph("photo.png"), EVERYBODY)
    content = AssetRecord.objects.get(pk=newest).asset_id
    assert graph["1"]["inputs"] == {
        "image": {"__type": "core/ASSET", "info": {"id": content}},
        "upload": "image",
    }
    assert asset_records.resolve(_graph("photo.png [output]"), EVERYBODY) == _graph(
        "photo.png [output]"
    )


@pytest.mark.django_db(transaction=True)
async def test_output_of_a_job_is_an_asset(
    gallery: Gallery,  # noqa: F811 a fixture
    files_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asset_records, "_CAPTURE_SECONDS", 0.0)
    gallery.put("a.png", CONTENT)
    _, [job] = await gallery.done({"images": [file("a.png")]})
    output = output_uuid(job, 0)
    resolve = in_thread(lambda: asset_records.resolve(_graph(_reference(output)), EVERYBODY))

    async def shown() -> dict[str, Any]:
        return (await gallery.get(f"{ASSETS}/{output}")).json()

    before = await shown()
    assert (before["hash"], before["size_bytes"], before["file_path"]) == (
        None,
        len(CONTENT),
        "a.png",
    )
    assert await body(await gallery.get(f"{ASSETS}/{output}/content", Range="bytes=0-2")) == b"cat"
    with pytest.raises(MissingAsset):
        await resolve()
    await settled()
    assert (await shown())["hash"] == HASH
    assert await body(await gallery.get(f"{ASSETS}/{output}/content", Range="bytes=3-5")) == b"cat"
    reference = (await resolve())["1"]["inputs"]["image"]
    asset = await in_thread(Asset.objects.get)()
    assert (reference["info"]["id"], asset.hash, asset.name) == (asset.pk, HASH[7:], "a.png")
    assert (files_folder / asset.stored_name).read_bytes() == CONTENT
    refused = await gallery.client.delete(f"{ASSETS}/{output}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "asset_in_use")
    assert (await gallery.get(f"{ASSETS}/{output_uuid(job, 1)}")).status_code == 404
    file_row = await in_thread(StoredFile.objects.get)()
    (files_folder / file_row.stored_name).unlink()
    (gallery.folder / "a.png").unlink()
    assert (await gallery.get(f"{ASSETS}/{output}/content")).status_code == 404
