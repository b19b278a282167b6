"""Outputs in a bucket of an S3 service."""

import io
import os
import zipfile

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from PIL import Image

from backends.models import Backend
from backends.simulator.media import encode_webm
from director.doctor import checks
from director.web.health import run_checks
from jobgroups.errors import StorageAway
from jobgroups.models import Capture, ChildJob, StoredFile
from jobgroups.services import captures, stored_files
from tests.harness.bucket import BucketServer
from tests.harness.farm import in_thread, until
from tests.outputs.conftest import Gallery, body, file, picture
from tests.outputs.test_captures import capturing, content_of, of_group, settled

pytestmark = pytest.mark.django_db(transaction=True)


@in_thread
def expected() -> list[str]:
    return sorted(one.stored_name for one in StoredFile.objects.all())


async def test_outputs_in_a_bucket_outlive_their_backend(
    gallery: Gallery, bucket: BucketServer
) -> None:
    large = os.urandom(20 * 2**20)  # three parts
    gallery.put("a.png", picture())
    gallery.put("a.bin", large)
    gallery.put("empty.txt", b"")
    group, _ = await gallery.done(
        {"images": [file("a.png")], "text": [file("a.bin"), file("empty.txt")]}
    )
    await settled()
    await in_thread(Backend.objects.all().delete)()
    _, shown = await of_group(group)
    of = {one["filename"]: one["file_url"] for one in shown}
    assert bucket.objects == await expected()

    bucket.requests.clear()
    part = await gallery.get(of["a.bin"], Range="bytes=9000000-9000009")
    assert (part.status_code, await body(part)) == (206, large[9_000_000:9_000_010])
    assert [one[2] for one in bucket.requests] == ["bytes=9000000-9000009"]
    bucket.cuts = 1
    assert await body(await gallery.get(of["a.bin"])) == large
    assert (await gallery.get(of["a.bin"], If_None_Match=part.headers["ETag"])).status_code == 304
    assert (await gallery.get(f"{of['a.png']}?w=320")).status_code == 200
    with zipfile.ZipFile(
        io.BytesIO(await body(await gallery.get(f"/api/job-groups/{group}/outputs.zip")))
    ) as found:
        assert sorted(map(found.read, found.namelist()), key=len) == [b"", picture(), large]

    await in_thread(Capture.objects.all().delete)()
    await in_thread(captures.files_collect)()
    assert bucket.objects == []


@pytest.mark.ffmpeg
async def test_poster_of_a_video_in_a_bucket(gallery: Gallery, bucket: BucketServer) -> None:
    url = await gallery.one("a.webm", encode_webm([Image.new("RGB", (64, 32), "red")] * 4, 2))
    await settled()
    bucket.requests.clear()
    assert (await gallery.get(f"{url}?w=320")).status_code == 200
    # ffmpeg reads it itself: a video of gigabytes is never copied for its first frame.
    assert [one[0] for one in bucket.requests][:2] == ["HEAD", "GET"]


async def test_captures_wait_for_a_bucket_that_answers_503(
    gallery: Gallery, bucket: BucketServer
) -> None:
    await gallery.one("a.png", picture())
    bucket.refuses_late = {"PUT"}
    incoming = stored_files.incoming_folder().parent
    async with capturing():
        await until(
            in_thread(Capture.objects.filter(tries__gt=0, reason__contains="SlowDown").exists)
        )
        bucket.refuses = {"HEAD", "GET", "PUT", "DELETE"}
        tries = (await in_thread(Capture.objects.get)()).tries
        await until(in_thread(Capture.objects.filter(tries__gt=tries + 1).exists))
        check = (await in_thread(run_checks)())["checks"]["storage"]
        assert (check["status"], "does not answer" in check["detail"]) == ("degraded", True)
        assert (await in_thread(ChildJob.objects.get)()).status == "completed"
        assert list(incoming.glob("*.mark"))
        with pytest.raises(StorageAway):
            await in_thread(stored_files.clean)()
        bucket.refuses, bucket.refuses_late = set(), set()
        await until(in_thread(Capture.objects.filter(file__isnull=False).exists))
    # What the service had stored before it answered 503 goes.
    assert len(bucket.objects) > 1
    await in_thread(stored_files.clean)()
    assert bucket.objects == await expected()
    assert content_of(incoming) == []


def test_file_that_a_bucket_does_not_delete_goes_later(bucket: BucketServer) -> None:
    storages["files"].save("results/1", ContentFile(b"1"))
    bucket.refuses = {"DELETE"}
    stored_files.delete_file("results/1")
    assert bucket.objects == ["results/1"]
    bucket.refuses = set()
    stored_files.clean()
    assert bucket.objects == []


def _of_doctor() -> tuple[str, str]:
    found = checks.other_parts()["Storage"]
    return found.level, found.said


def test_error_of_a_bucket_names_its_cause(bucket: BucketServer) -> None:
    where = f"bucket {bucket.name}/director at {bucket.options['endpoint_url']}"
    level, said = _of_doctor()
    assert (level, said.startswith(f"The {where} can be written. ")) == ("ok", True)
    assert bucket.objects == []
    bucket.refuses = {"PUT"}
    level, said = _of_doctor()
    assert (level, f"The {where} cannot be written: " in said, "SlowDown" in said) == (
        "problem",
        True,
        True,
    )
    bucket.refuses = set()
    assert not stored_files.marker_exists(runner="r", instance="i")
    stored_files.marker_write(runner="r", instance="i")
    assert stored_files.marker_exists(runner="r", instance="i")
    storages["files"].bucket.objects.all().delete()
    storages["files"].bucket.delete()
    with pytest.raises(StorageAway, match="NoSuchBucket"):
        stored_files.marker_write(runner="r", instance="i")
    bucket.close()
    with pytest.raises(StorageAway, match="EndpointConnectionError"):
        stored_files.require_storage()
