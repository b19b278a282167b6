"""A second request proves that no prompt wrote to a file while it was read, unless its content
proves that.

In each test the backend refuses a second request, or has another file by then.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from blake3 import blake3

from backends.models import Backend
from jobgroups.models import Capture
from jobgroups.services import stored_files
from tests.harness.farm import in_thread, until
from tests.outputs.conftest import Gallery, picture
from tests.outputs.test_captures import capturing, settled
from tests.unit.test_marked_png import marked

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


def meanwhile(gallery: Gallery, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """Have another prompt write to the file after its first part was received; None: each later
    request is refused.
    """
    write = stored_files.IncomingFile.write

    def written(incoming: Any, chunk: bytes) -> None:
        if content is None:
            gallery.sim.faults.inject("status", route="/view", status=503, count=0)
        else:
            gallery.put("a.png", content)
        write(incoming, chunk)

    monkeypatch.setattr(stored_files.IncomingFile, "write", written)


async def reported(
    gallery: Gallery, content: bytes | None = None, name: str = "a.png"
) -> tuple[str, str]:
    """Return group and job that reported a file."""
    url = await gallery.one(name, content)
    return url.split("/")[3], url.split("/")[5]


def own(group: str, job: str, seed: int = 1) -> bytes:
    return marked(job, group=group, seed=seed)


async def test_picture_with_the_mark_of_its_job_takes_one_request(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, job = await reported(gallery)
    gallery.put("a.png", content := own(group, job))
    meanwhile(gallery, monkeypatch, None)
    (row,) = await settled()
    assert (row.tries, row.reason) == (0, "")
    assert row.file is not None
    assert row.file.blake3 == blake3(content).hexdigest()


async def test_picture_that_was_replaced_after_it_was_read_is_kept(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, job = await reported(gallery)
    gallery.put("a.png", content := own(group, job))
    meanwhile(gallery, monkeypatch, own("jg_other", "j_other"))
    (row,) = await settled()
    assert row.file is not None
    assert row.file.blake3 == blake3(content).hexdigest()


@pytest.mark.parametrize(
    "case", ["other job", "no mark", "two pictures", "bytes behind", "not a PNG"]
)
async def test_picture_that_is_not_proven_takes_a_second_request(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    group, job = await reported(gallery)
    first, second = own(group, job), own("jg_other", "j_other", seed=2)
    content = {
        "other job": second,
        "no mark": picture(),
        "two pictures": first[: 2**15] + second[2**15 :],
        "bytes behind": first + bytes(8),
        "not a PNG": picture("JPEG"),
    }[case]
    gallery.put("a.png", content)
    meanwhile(gallery, monkeypatch, second + bytes(1))
    (row,) = await settled()
    assert row.file is None
    assert "It was replaced" in row.reason


async def test_large_picture_takes_a_second_request(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.runner.captures._CHECKED", 2**16)
    group, job = await reported(gallery)
    gallery.put("a.png", own(group, job))
    meanwhile(gallery, monkeypatch, None)
    async with capturing():
        await until(in_thread(Capture.objects.filter(tries__gte=1).exists))
    assert not await in_thread(Capture.objects.filter(file__isnull=False).exists)()


@contextlib.asynccontextmanager
async def without_tags(gallery: Gallery) -> AsyncIterator[list[str]]:
    """Have the files served without an ETag, as behind some proxies; yield the methods of the
    requests.
    """
    methods: list[str] = []

    async def view(request: web.Request) -> web.Response:
        methods.append(request.method)
        path = gallery.folder / request.query["filename"]
        return web.Response(
            body=path.read_bytes(),
            headers={"Last-Modified": formatdate(path.stat().st_mtime, usegmt=True)},
        )

    app = web.Application()
    app.router.add_get("/view", view)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await in_thread(Backend.objects.update)(url=f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield methods
    finally:
        await runner.cleanup()


async def test_backend_without_tags_is_queried_again_for_the_date(gallery: Gallery) -> None:
    group, job = await reported(gallery)
    gallery.put("a.png", own(group, job))
    async with without_tags(gallery) as methods:
        (row,) = await settled()
        assert (row.file is not None, row.reason, set(methods)) == (True, "", {"GET"})
        await reported(gallery, picture("JPEG"), "b.png")
        row = (await settled())[-1]
        warning = "Its content is image/jpeg, not image/png as its name says."
        assert (row.file is not None, row.reason, set(methods)) == (True, warning, {"GET", "HEAD"})


async def test_file_without_a_tag_whose_date_changes_while_it_is_read_is_not_copied(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reported(gallery, picture())
    write = stored_files.IncomingFile.write

    def dated(incoming: Any, chunk: bytes) -> None:
        written_at = (gallery.folder / "a.png").stat().st_mtime - 5
        os.utime(gallery.folder / "a.png", (written_at, written_at))
        write(incoming, chunk)

    monkeypatch.setattr(stored_files.IncomingFile, "write", dated)
    async with without_tags(gallery):
        (row,) = await settled()
    assert row.file is None
    assert "It was replaced" in row.reason
