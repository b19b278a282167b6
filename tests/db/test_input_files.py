"""Names of files at the ComfyUI listener: their contents, owners and deletion."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from jobgroups.domain.access import Principal, Right, Role
from jobgroups.domain.clock import now
from jobgroups.domain.listener_files import IMAGES, USER, account_owner
from jobgroups.errors import AssetInUse
from jobgroups.models import Asset, EditorSetting, InputFile
from jobgroups.queries.assets import assets_of
from jobgroups.queries.input_files import asset_ids, input_file, uploaded_names
from jobgroups.services import asset_records, assets
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.input_files import IMAGES_KEPT, image_store, images_expire, input_store
from jobgroups.services.purge import ended_groups, groups_delete
from jobgroups.services.stored_files import read_file, storage
from jobgroups.services.user_files import settings_change, user_file_store
from tests.harness import factories
from tests.harness.races import race

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("files_folder")]

OWNER = "127.0.0.1"


def put(content: bytes, path: str = "cat.png", **fields: Any) -> str:
    fields = {"owner": OWNER, "owner_id": None, "folder": "input", "overwrite": False, **fields}
    return input_store(factories.received_file(content), path=path, **fields)


def put_image(content: bytes, image_id: str = "i1", owner: str = OWNER) -> bool:
    received = factories.received_file(content)
    return image_store(received, owner=owner, owner_id=None, image_id=image_id)


def content(path: str, owner: str = OWNER, folder: str = "input") -> bytes | None:
    asset = input_file(owner, folder, path)
    return None if asset is None else read_file(asset.stored_name, 0, asset.size_bytes)


def reference(asset: Asset | None) -> dict[str, Any]:
    assert asset is not None
    value = {"__type": "core/ASSET", "info": {"id": asset.pk}}
    return factories.WORKFLOW | {"7": {"class_type": "LoadImage", "inputs": {"image": value}}}


def test_other_content_gets_a_number_and_same_content_its_name() -> None:
    assert [put(b"a"), put(b"b"), put(b"a"), put(b"c"), put(b"b")] == [
        "cat.png",
        "cat (1).png",
        "cat.png",
        "cat (2).png",
        "cat (1).png",
    ]
    assert (content("cat.png"), content("cat (1).png")) == (b"a", b"b")
    assert uploaded_names(OWNER) == ["cat (1).png", "cat (2).png", "cat.png"]


def test_overwrite_replaces_the_content_of_a_name() -> None:
    put(b"a")
    assert put(b"b", overwrite=True) == "cat.png"
    assert content("cat.png") == b"b"
    assert InputFile.objects.count() == 1


def test_names_are_those_of_an_owner_and_a_folder() -> None:
    put(b"a")
    assert put(b"b", owner="10.0.0.1") == "cat.png"
    assert put(b"c", folder="temp") == "cat.png"
    assert (content("cat.png"), content("cat.png", "10.0.0.1")) == (b"a", b"b")
    assert (uploaded_names("10.0.0.1"), uploaded_names("10.0.0.2")) == (["cat.png"], [])
    found = asset_ids(OWNER, [("input", "cat.png"), ("temp", "cat.png"), ("input", "dog.png")])
    assert list(found) == [("input", "cat.png"), ("temp", "cat.png")]


def test_asset_of_a_name_stays_under_an_open_group_and_the_name_goes_with_it() -> None:
    factories.online()
    put(b"a")
    asset = input_file(OWNER, "input", "cat.png")
    assert asset is not None
    group = factories.submit("gpu-1", workflow=reference(asset))
    put(b"b", overwrite=True)
    with pytest.raises(AssetInUse):
        assets.asset_delete(asset_id=asset.pk)
    group_cancel(group_id=group.pk)
    assets.asset_delete(asset_id=asset.pk)
    assert content("cat.png") == b"b"
    assets.asset_delete(asset_id=Asset.objects.get().pk)
    assert uploaded_names(OWNER) == []


def test_upload_of_an_account_stays_while_another_account_has_the_content() -> None:
    put(b"a", owner="account 1", owner_id=1)
    put(b"a", owner="account 2", owner_id=2)
    asset = Asset.objects.get()
    assets.asset_delete(asset_id=asset.pk, owner_id=1)
    assert content("cat.png", "account 1") is None
    assert content("cat.png", "account 2") == b"a"


def test_image_has_one_content_for_its_id_and_is_seen_by_its_owner_alone() -> None:
    assert put_image(b"a")
    assert not put_image(b"a")
    assert put_image(b"b")
    assert content("i1", folder=IMAGES) == b"b"
    assert put_image(b"b", owner="account 2")
    artist = Principal(Right.SUBMIT, user_id=2, role=Role.ARTIST, sees_all=False)
    assert [asset.hash for asset in assets_of(artist)] == [
        Asset.objects.get(input_files__owner="account 2").hash
    ]


def age(hours: float) -> None:
    past = now() - dt.timedelta(hours=hours)
    InputFile.objects.update(created_at=past)
    Asset.objects.update(created_at=past, used_at=past)


def test_image_expires_unless_an_open_group_or_an_upload_has_its_content() -> None:
    factories.online()
    for number, text in enumerate((b"a", b"b", b"c")):
        put_image(text, f"i{number}")
    group = factories.submit("gpu-1", workflow=reference(input_file(OWNER, IMAGES, "i1")))
    put(b"c")
    age(IMAGES_KEPT / dt.timedelta(hours=1) + 1)
    images_expire()
    assert not InputFile.objects.filter(folder=IMAGES).exists()
    assert Asset.objects.count() == 2
    assert content("cat.png") == b"c"
    group_cancel(group_id=group.pk)
    images_expire()
    assert [asset.input_files.get().path for asset in Asset.objects.all()] == ["cat.png"]
    assert len(storage().listdir("assets")[1]) == 1


def test_image_that_is_put_again_does_not_expire() -> None:
    put_image(b"a")
    age(IMAGES_KEPT / dt.timedelta(hours=1) + 1)
    put_image(b"a")
    images_expire()
    assert content("i1", folder=IMAGES) == b"a"


def test_record_of_the_comfy_api_leaves_content_that_an_image_has() -> None:
    put_image(b"a")
    record, _ = asset_records.record_store(
        received=factories.received_file(b"a"), file_path="a.png", idempotency_key=None
    )
    asset_records.record_delete(asset_id=record, principal=Principal(Right.ADMINISTER))
    assert content("i1", folder=IMAGES) == b"a"


def test_deletion_of_a_group_leaves_the_names_of_its_assets() -> None:
    factories.online()
    put(b"a")
    group = factories.submit("gpu-1", workflow=reference(input_file(OWNER, "input", "cat.png")))
    group_cancel(group_id=group.pk)
    assert groups_delete([group.pk], ended_groups())[0] == 1
    assert content("cat.png") == b"a"


def save(owner: str = OWNER, text: bytes = b"saved") -> None:
    user_file_store(text, owner=owner, owner_id=None, path="workflows/a.json", overwrite=True)


def test_saved_file_outlasts_the_retention_of_assets_and_their_deletion() -> None:
    save(text=b"a")
    put(b"a")
    age(24 * 365)
    assert assets.unused_assets(now()) == []
    assets.asset_delete(asset_id=Asset.objects.get().pk)
    assert (content("cat.png"), content("workflows/a.json", folder=USER)) == (None, b"a")
    assert Asset.objects.get().is_recorded_only


def test_what_a_person_has_is_listed_exported_and_purged(
    tmp_path: Path, client: Client, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.server.startup.open_tables", lambda _: None)
    anna, ben = (User.objects.create_user(name) for name in ("anna", "ben"))
    for owner in (account_owner(anna.pk), account_owner(ben.pk), OWNER):
        save(owner)
        put(b"cat", owner=owner)
        settings_change(owner=owner, values={"Comfy.Locale": "de"})
    call_command("people", "files")
    lines = capsys.readouterr().out.splitlines()
    rest = "  1 file (0.0 MiB of 1024), 1 upload, 1 setting"
    assert sorted(lines) == sorted(f"{name}{rest}" for name in ("anna", "ben", OWNER))
    archive = tmp_path / "anna.zip"
    call_command("people", "export", "anna", str(archive))
    with ZipFile(archive) as exported:
        files = {name: exported.read(name) for name in exported.namelist()}
    assert json.loads(files.pop("settings.json")) == {"Comfy.Locale": "de"}
    assert files == {"input/cat.png": b"cat", "user/workflows/a.json": b"saved"}
    with pytest.raises(CommandError, match="File exists"):
        call_command("people", "export", "anna", str(archive))
    with pytest.raises(CommandError, match="no account"):
        call_command("people", "purge", "carl")
    call_command("people", "purge", "anna")
    client.force_login(User.objects.create_superuser("vera"))
    client.post(f"/admin/auth/user/{ben.pk}/delete/", {"post": "yes"})
    assert {(row.owner, row.folder) for row in InputFile.objects.all()} == {
        (OWNER, "input"),
        (OWNER, USER),
    }
    assert EditorSetting.objects.get().owner == OWNER
    call_command("people", "purge", OWNER)
    assert not InputFile.objects.exists()
    age(24 * 3)
    images_expire()
    assert [asset.is_recorded_only for asset in Asset.objects.all()] == [False]


@pytest.mark.django_db(transaction=True)
def test_two_uploads_of_one_name_at_once_get_two_names() -> None:
    first, second = factories.received_file(b"a"), factories.received_file(b"b")
    moved = second.path.rename(second.path.with_name("second"))
    first.path.write_bytes(b"a")
    fields: dict[str, Any] = {"owner": OWNER, "owner_id": None, "folder": "input"}
    fields |= {"path": "cat.png", "overwrite": False}
    names = race(
        lambda: input_store(first, **fields),
        lambda: input_store(replace(second, path=moved), **fields),
    )
    assert sorted(names) == ["cat (1).png", "cat.png"]
