"""Files of jobs and uploads at the ComfyUI listener: from the storage, else from the machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_django import Settings

from director.asgi import application
from jobgroups.api.listener import files
from jobgroups.api.listener.references import file_references
from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import now
from jobgroups.errors import StorageFull
from jobgroups.models import Asset, Attempt, ChildJob, ListenerPrompt
from jobgroups.services import stored_files
from jobgroups.services.input_files import input_store
from jobgroups.services.purge import ended_groups, groups_delete
from jobgroups.workflow.assets import referenced_asset
from tests.harness import factories
from tests.harness.farm import in_thread
from tests.outputs.conftest import Gallery, file, picture
from tests.outputs.test_captures import settled

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]

OWNER = "localhost"


class Program(httpx.AsyncClient):
    def __init__(self, address: str = "127.0.0.1") -> None:
        transport = httpx.ASGITransport(application, client=(address, 50_000))
        super().__init__(transport=transport, base_url="http://localhost:9821")

    async def view(self, name: str, subfolder: str, kind: str = "output", **headers: str) -> Any:
        params = {"filename": name, "subfolder": subfolder, "type": kind}
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.get("/view", params=params, headers=sent)


@pytest.fixture
async def program(settings: Settings) -> AsyncIterator[Program]:
    settings.DIRECTOR_COMFYUI_PORT = 9821
    async with Program() as client:
        yield client


def own(group_id: str, owner: str = OWNER) -> None:
    """Have a group be of a prompt at the listener."""
    ListenerPrompt.objects.create(
        group_id=group_id, owner=owner, prompt_id=group_id, digest="", created_at=now()
    )


async def made(gallery: Gallery, name: str = "a.png", content: bytes | None = None) -> str:
    """Return the id of a job that made a file in a subfolder."""
    gallery.put(f"shots/{name}", content or picture())
    group_id, jobs = await gallery.done({"images": [file(name, "shots")]})
    await in_thread(own)(group_id)
    return jobs[0]


async def test_file_comes_from_the_machine_then_from_the_storage_alone(
    gallery: Gallery, program: Program
) -> None:
    content = picture()
    job = await made(gallery, content=content)
    for subfolder in (f"{job}/shots", f"{job}\\shots", f"./{job}/shots/"):
        answer = await program.view("a.png", subfolder)
        assert (answer.status_code, answer.content) == (200, content)
    part = await program.view("a.png", f"{job}/shots", range="bytes=1-3")
    assert (part.status_code, part.content) == (206, content[1:4])
    await settled()
    shutil.rmtree(gallery.folder)
    gallery.sim.crash()
    answer = await program.view("a.png", f"{job}/shots", "")
    assert (answer.status_code, answer.content) == (200, content)
    part = await program.view("a.png", f"{job}/shots", range="bytes=-2")
    assert (part.status_code, part.content) == (206, content[-2:])


async def test_file_that_no_job_of_the_owner_reported_is_not_found(
    gallery: Gallery, program: Program
) -> None:
    job = await made(gallery)
    gallery.put("other.png", picture())
    for name, subfolder, kind in (
        ("other.png", job, "output"),
        ("a.png", job, "output"),
        ("a.png", f"{job}/shots", "temp"),
        ("a.png", "shots", "output"),
        ("a.png", "j_000000000000/shots", "output"),
    ):
        assert (await program.view(name, subfolder, kind)).status_code == 404
    async with Program("10.0.0.9") as other:
        assert (await other.view("a.png", f"{job}/shots")).status_code == 404
        headers = {"comfy-user": "other"}
    assert (await program.view("a.png", f"{job}/shots", **headers)).status_code == 404


async def test_file_is_viewed_while_its_prompt_runs_and_after_it_failed(
    gallery: Gallery, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture()
    gallery.put("early.png", content)

    def begin() -> tuple[Any, Attempt]:
        fence = factories.lease("gpu-1")
        group = factories.submit("gpu-1")
        own(group.pk)
        claimed = factories.claim(fence)
        factories.start(claimed, fence)
        return fence, claimed

    def report(attempt: Attempt) -> None:
        outputs = json.dumps({"9": {"images": [file("early.png")]}})
        Attempt.objects.filter(pk=attempt.pk).update(node_outputs_json=outputs)

    monkeypatch.setattr(files, "_REPORTED_WITHIN", 0.2)
    fence, claimed = await in_thread(begin)()
    job = claimed.child_id
    await in_thread(report)(claimed)
    assert (await program.view("early.png", job)).content == content
    assert (await program.view("late.png", job)).status_code == 404
    await in_thread(factories.fail)(claimed, fence)
    assert (await program.view("early.png", job)).content == content


@pytest.mark.parametrize("is_captured", [True, False])
async def test_output_in_a_prompt_becomes_an_asset(gallery: Gallery, is_captured: bool) -> None:
    content = picture()
    job = await made(gallery, content=content)
    if is_captured:
        await settled()
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": f"{job}/shots/a.png [output]"}}}

    def refer() -> tuple[str | None, int]:
        found = file_references(graph, owner=OWNER, principal=EVERYBODY)
        assert file_references(graph, owner=OWNER, principal=EVERYBODY) == found
        asset = Asset.objects.get()
        storage = stored_files.storage()
        assert Path(storage.path(asset.stored_name)).read_bytes() == content
        names = Path(storage.path(asset.stored_name)).stat().st_nlink
        return referenced_asset(found["1"]["image"]), names

    asset_id, names = await in_thread(refer)()
    assert asset_id
    # Of a captured file there is no second copy.
    assert names == (2 if is_captured else 1)


async def test_name_of_another_owner_stays_as_it_is(transactional_db: None) -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "cat.png", "upload": "image"}}}

    def refer(owner: str) -> dict[str, Any]:
        return file_references(graph, owner=owner, principal=EVERYBODY)

    def upload() -> None:
        received = factories.received_file(b"cat")
        fields: dict[str, Any] = {"owner": OWNER, "owner_id": None, "folder": "input"}
        input_store(received, path="cat.png", overwrite=False, **fields)

    await in_thread(upload)()
    assert list(await in_thread(refer)(OWNER)) == ["1"]
    assert await in_thread(refer)("10.0.0.1") == {}


async def test_upload_to_a_full_disk_is_refused(
    program: Program, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_files, "free_bytes", lambda: 0)
    answers = [
        await program.post("/upload/image", files={"image": ("a.png", b"cat")}),
        await program.put("/api/etn/image/i1", content=b"cat"),
    ]
    assert [answer.status_code for answer in answers] == [StorageFull.status] * 2
    assert "free some space" in answers[0].json()["error"]["message"]
    assert "free some space" in answers[1].json()["error"]


async def test_purged_group_has_no_files_at_the_listener(
    gallery: Gallery, program: Program
) -> None:
    job = await made(gallery)
    await settled()

    def purge() -> None:
        group_id = ChildJob.objects.get(pk=job).group_id
        assert groups_delete([group_id], ended_groups())[0] == 1
        assert not ListenerPrompt.objects.exists()

    await in_thread(purge)()
    assert (await program.view("a.png", f"{job}/shots")).status_code == 404


async def test_error_of_a_file_is_empty_as_that_of_comfyui(program: Program) -> None:
    queries = {"filename=../../x": 400, "filename=x&type=y": 400, "filename=x": 404, "": 404}
    for query, status in queries.items():
        answer = await program.get(f"/view?{query}")
        assert (answer.status_code, answer.content) == (status, b""), query
