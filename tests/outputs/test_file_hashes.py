"""The SHA-256 of a large captured file follows when no file is copied."""

import asyncio
import contextlib
import datetime as dt
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from django.db import connection

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import now
from jobgroups.models import Capture, FilesProcess, JobGroup, StoredFile
from jobgroups.queries.outputs import unhashed_files
from jobgroups.runner import captures as capturer, file_hashes
from jobgroups.runner.file_hashes import FileHasher
from jobgroups.runner.intervals import Intervals
from jobgroups.services import file_hashes as service
from jobgroups.services.file_hashes import file_hashes_store
from tests.harness import factories
from tests.harness.farm import in_thread, until
from tests.harness.races import started
from tests.outputs.conftest import Gallery, picture
from tests.outputs.test_captures import capturing, of_group, settled

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


@contextlib.asynccontextmanager
async def hashing(is_idle: Callable[[], bool] = lambda: True) -> AsyncIterator[FileHasher]:
    threads = DatabaseThreads(threads=2, name="captures", is_shared=True)
    hasher = FileHasher(threads, runner="runner", intervals=Intervals.scaled(0.01), is_idle=is_idle)
    running = asyncio.get_running_loop().create_task(hasher.run())
    yield hasher
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await asyncio.to_thread(threads.close)


def stored(folder: Path, content: bytes, **facts: Any) -> StoredFile:
    """Store a file without its SHA-256."""
    fields = {
        "id": str(uuid.uuid4()),
        "sha256": "",
        "size_bytes": len(content),
        "created_at": now(),
    } | facts
    row: StoredFile = StoredFile.objects.create(blake3=blake3(content).hexdigest(), **fields)
    path = folder / row.stored_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return row


def hashes() -> dict[int, str]:
    return dict(StoredFile.objects.values_list("size_bytes", "sha256"))


async def test_hash_of_a_large_file_is_null_until_it_is_computed(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturer, "_HASHED_AT_ONCE", len(picture()) - 1)
    read, may_read = file_hashes.read_file, threading.Event()
    monkeypatch.setattr(file_hashes, "read_file", lambda *part: may_read.wait(60.0) and read(*part))
    group = (await gallery.one("a.png", picture())).split("/")[3]
    async with capturing():
        await until(in_thread(Capture.objects.filter(file__isnull=False).exists))
        before, (shown,) = await of_group(group)
        assert (shown["captured"], shown["blake3"], shown["sha256"]) == (
            True,
            blake3(picture()).hexdigest(),
            None,
        )
        may_read.set()
        await until(in_thread(lambda: not StoredFile.objects.filter(sha256="").exists()))
    after, (shown,) = await of_group(group)
    assert shown["sha256"] == sha256(picture()).hexdigest()
    # Another change of the copy may come between, as of its warning.
    assert after["seq"] == before["seq"]
    assert after["revision"] > before["revision"]


async def test_hash_of_a_file_in_a_bucket_is_known_with_its_copy(
    gallery: Gallery, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "read_file", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(capturer, "_HASHED_AT_ONCE", 0)
    await gallery.one("a.png", picture())
    (row,) = await settled()
    assert row.file is not None
    assert row.file.sha256 == sha256(picture()).hexdigest()


async def test_hashes_wait_while_files_are_copied(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_idle, queries, read = [False], [], file_hashes.read_file
    monkeypatch.setattr(file_hashes, "_PART", 4)
    await in_thread(stored)(files_folder, b"four" * 4)
    monkeypatch.setattr(
        file_hashes, "read_file", lambda *part: read(*part) if is_idle[0] else pytest.fail("busy")
    )
    async with hashing(lambda: bool(queries.append(1)) or is_idle[0]):
        await until(lambda: len(queries) > 3)
        is_idle[0] = True
        await until(in_thread(lambda: hashes() == {16: sha256(b"four" * 4).hexdigest()}))


async def test_process_that_is_killed_while_it_hashes_leaves_the_rest_to_the_next(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [bytes([number]) * (2**10 + number) for number in range(20)]
    done = {len(content): sha256(content).hexdigest() for content in contents}
    old = await in_thread(stored)(files_folder, b"old", sha256="of the previous release")
    for content in contents:
        await in_thread(stored)(files_folder, content)
    is_idle = [True]
    store = file_hashes.file_hashes_store

    def stored_once(some: Any) -> None:
        store(some)
        is_idle[0] = False

    monkeypatch.setattr(file_hashes, "file_hashes_store", stored_once)
    async with hashing(lambda: is_idle[0]):
        await until(in_thread(StoredFile.objects.exclude(sha256="").exclude(pk=old.pk).exists))
    left = await in_thread(StoredFile.objects.filter(sha256="").count)()
    assert 20 - file_hashes._AT_ONCE <= left < 20
    is_idle[0] = True
    async with hashing():
        await until(in_thread(lambda: hashes() == done | {3: "of the previous release"}))


async def test_file_that_the_storage_lost_or_cut_keeps_no_other_from_its_hash(
    files_folder: Path,
) -> None:
    rows = [await in_thread(stored)(files_folder, bytes(size)) for size in range(1, 30)]
    for row in rows[::2]:
        (files_folder / row.stored_name).unlink()
    cut = files_folder / rows[1].stored_name
    cut.write_bytes(b"")
    without = {row.size_bytes for row in (*rows[::2], rows[1])}
    async with hashing():
        await until(
            in_thread(lambda: {size for size, found in hashes().items() if not found} == without)
        )


async def test_hasher_goes_on_after_an_unexpected_error(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(stored)(files_folder, b"content")
    errors, read = [MemoryError(), ValueError()], file_hashes.read_file

    def fails(*part: Any) -> bytes:
        if errors:
            raise errors.pop()
        return read(*part)

    monkeypatch.setattr(file_hashes, "read_file", fails)
    async with hashing() as hasher:
        await until(lambda: bool(hasher.wanted.set()) or not errors)
        await until(in_thread(lambda: hashes() == {7: sha256(b"content").hexdigest()}))


def test_runner_leaves_hashes_to_an_alive_process_of_files(files_folder: Path) -> None:
    row = stored(files_folder, b"a")
    process = FilesProcess.objects.create(
        instance="x", host="h", pid=1, version="0", started_at=now(), heartbeat_at=now()
    )
    assert list(unhashed_files(runner="r", after="", limit=9)) == []
    assert list(unhashed_files(runner=None, after="", limit=9)) == [row]
    assert list(unhashed_files(runner=None, after=row.pk, limit=9)) == []
    process.heartbeat_at -= dt.timedelta(seconds=11)
    process.save()
    assert list(unhashed_files(runner="r", after="", limit=9)) == [row]


def _captured(file: StoredFile) -> str:
    """Return the group of a new job with this file."""
    child = factories.only(factories.submit("gpu-1"))
    Capture.objects.create(
        child=child, number=0, backend_id="gpu-1", digest="", created_at=now(), file=file
    )
    return child.group_id


def test_hash_of_a_shared_file_revises_the_groups_of_all_its_captures(files_folder: Path) -> None:
    factories.online()
    file, other = stored(files_folder, b"a"), stored(files_folder, b"bc")
    groups, unchanged = {_captured(file), _captured(file)}, _captured(other)
    file_hashes_store({file.pk: "hash", "deleted meanwhile": "hash"})
    assert hashes() == {1: "hash", 2: ""}
    revisions = dict(JobGroup.objects.values_list("pk", "revision"))
    assert revisions == dict.fromkeys(groups, 1) | {unchanged: 0}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer")
def test_group_that_captures_the_file_meanwhile_is_revised_too(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.online()
    file = stored(files_folder, b"a")
    groups, revise = {_captured(file)}, service.groups_revise

    def then_captured(ids: Any) -> set[str]:
        revised = revise(ids)
        if len(groups) == 1:
            started(lambda: groups.add(_captured(file))).join()
        return revised

    monkeypatch.setattr(service, "groups_revise", then_captured)
    file_hashes_store({file.pk: "hash"})
    assert hashes() == {1: "hash"}
    assert dict(JobGroup.objects.values_list("pk", "revision")) == dict.fromkeys(groups, 1)
    assert len(groups) == 2
