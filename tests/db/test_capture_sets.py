"""Copied files that are stored together: the rows and files are those that they have one by one."""

import datetime as dt
import itertools
import json
import tempfile
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, Final

import pytest
from blake3 import blake3
from django.conf import settings as django_settings
from django.db import connection, transaction
from django.test import override_settings
from hypothesis import HealthCheck, Phase, example, given, settings, strategies as st

from jobgroups.models import Attempt, Capture, ChildJob, JobGroup, ReportedFile, StoredFile
from jobgroups.services import captures, files, stored_files
from jobgroups.services.capture_sets import Copy, captures_store
from jobgroups.services.purge import Limits, groups_purge
from tests.db.test_files import NAME, begin, end
from tests.harness import factories
from tests.harness.database_work import database_work

pytestmark = pytest.mark.django_db

BACKENDS: Final = ("gpu-1", "gpu-2")
NAMES: Final = ("a.png", "b.png", "c.png")
CONTENTS: Final = ("cat", "dog", "owl")


def _copy(capture: Capture, content: str = "cat", warning: str = "") -> Copy:
    digest = blake3(content.encode()).hexdigest()
    path = stored_files.incoming_folder() / uuid.uuid4().hex
    path.write_text(content)
    file = StoredFile(blake3=digest, sha256=digest, size_bytes=len(content))
    return Copy(capture.pk, capture.child.group_id, path, file, warning)


def _alone(copies: Sequence[Copy]) -> None:
    for one in copies:
        captures.capture_store(
            capture_id=one.capture_id, path=one.path, file=one.file, warning=one.warning
        )


def _together(copies: Sequence[Copy]) -> None:
    assert captures_store(copies) == {}


# A history is a list of events; the numbers choose among what there is.
_numbers = st.integers(0, 9)
_events = st.one_of(
    st.tuples(
        st.just("job"),
        st.sampled_from(BACKENDS),
        st.sets(st.sampled_from(NAMES), min_size=1),
        st.booleans(),
    ),
    st.tuples(
        st.just("copies"),
        st.lists(st.tuples(_numbers, st.sampled_from(CONTENTS), st.sampled_from(["", "doubtful"]))),
    ),
    st.tuples(
        st.sampled_from(["replaced", "given up", "legacy", "lost", "purged", "unreported"]),
        _numbers,
    ),
)


class _History:
    def __init__(self, store: Callable[[Sequence[Copy]], None]) -> None:
        self._store = store
        self._fences = {name: factories.online(name) for name in BACKENDS}
        self._seconds = itertools.count()

    def run(self, events: Sequence[tuple[Any, ...]]) -> None:
        for name, *values in events:
            getattr(self, f"_{name.replace(' ', '_')}")(*values)
        captures.files_collect()

    def _job(self, backend_id: str, names: set[str], cached: bool) -> None:
        fence = self._fences[backend_id]
        items = [{"filename": name} for name in sorted(names)]
        end(begin(fence), fence, *items, at=float(next(self._seconds)), cached=cached)

    def _copies(self, chosen: Sequence[tuple[int, str, str]]) -> None:
        rows = list(Capture.objects.filter(file=None).select_related("child").order_by("pk"))
        of_row = {
            rows[at % len(rows)].pk: (rows[at % len(rows)], *rest) for at, *rest in chosen if rows
        }
        copies = [_copy(*one) for one in of_row.values()]
        self._store(copies)
        for one in copies:
            one.path.unlink(missing_ok=True)

    def _replaced(self, at: int) -> None:
        if capture := self._pick(at):
            files.output_replaced(job_id=capture.child_id, digest=capture.digest or "")

    def _given_up(self, at: int) -> None:
        if (capture := self._pick(at)) and capture.file is None:
            captures.capture_give_up(capture_id=capture.pk, reason="It is gone.")

    def _legacy(self, at: int) -> None:
        if capture := self._pick(at):
            Capture.objects.filter(pk=capture.pk).update(digest=None)

    def _lost(self, at: int) -> None:
        if (capture := self._pick(at)) and capture.file is not None:
            (stored_files.storage().base_location / Path(capture.file.stored_name)).unlink(
                missing_ok=True
            )

    def _purged(self, at: int) -> None:
        if capture := self._pick(at):
            JobGroup.objects.filter(pk=capture.child.group_id).update(
                completed_at="2020-01-01T00:00:00Z"
            )
            list(groups_purge(Limits(age=dt.timedelta(days=1))))

    def _unreported(self, at: int) -> None:
        if capture := self._pick(at):
            ReportedFile.objects.filter(attempt=capture.child.current_attempt_id).delete()

    def _pick(self, at: int) -> Capture | None:
        rows = list(Capture.objects.select_related("child", "file").order_by("pk"))
        return rows[at % len(rows)] if rows else None


def _tables(folder: Path) -> dict[str, Any]:
    """Return what the history has left, without keys and times."""
    jobs = {
        key: at
        for at, key in enumerate(
            ChildJob.objects.order_by("queued_at", "pk").values_list("pk", flat=True)
        )
    }
    rows = Capture.objects.select_related("file").order_by("pk")
    return {
        "captures": [
            (
                jobs[row.child_id],
                row.number,
                row.digest,
                row.due_at is None,
                row.reason,
                row.file and row.file.blake3,
            )
            for row in rows
        ],
        "outputs": [
            [
                (one["filename"], one.get("missing"), one.get("reason"))
                for one in json.loads(text or "{}")["images"]
            ]
            for model in (ChildJob, Attempt)
            for text in model.objects.order_by(
                "pk" if model is Attempt else "queued_at"
            ).values_list("outputs_json", flat=True)
        ],
        # A copy that is refused may revise its group, which changes nothing.
        "groups": list(JobGroup.objects.order_by("created_at").values_list("seq", "status")),
        "reported": list(
            ReportedFile.objects.order_by("attempt", "digest").values_list("digest", "executed")
        ),
        "files": sorted(StoredFile.objects.values_list("blake3", "sha256", "size_bytes")),
        "bytes": sorted(one.read_text() for one in (folder / "results").rglob("*"))
        if folder.exists()
        else [],
        "left": sorted(one.suffix for one in (folder / "incoming").rglob("*") if one.is_file()),
    }


def _after(
    events: Sequence[tuple[Any, ...]], store: Callable[[Sequence[Copy]], None]
) -> dict[str, Any]:
    backend = "django.core.files.storage.FileSystemStorage"
    with tempfile.TemporaryDirectory() as name, transaction.atomic():
        folder = Path(name)
        location = {"BACKEND": backend, "OPTIONS": {"location": folder}}
        stored_files._incoming.cache_clear()
        with override_settings(
            DIRECTOR_FILES_DIR=folder, STORAGES={**django_settings.STORAGES, "files": location}
        ):
            _History(store).run(events)
            tables = _tables(folder)
        stored_files._incoming.cache_clear()
        transaction.set_rollback(True)
    return tables


@settings(
    max_examples=settings().max_examples // 5,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=st.lists(_events, min_size=4, max_size=12))
@example(  # A copy takes the place of a lost file, and its output is another file's by then.
    events=[
        ("job", "gpu-1", {"a.png"}, False),
        ("job", "gpu-1", {"a.png"}, False),
        ("copies", [(1, "owl", "")]),
        ("lost", 1),
        ("copies", [(0, "owl", "")]),
    ]
)
def test_histories_leave_the_same_rows_and_files_together_as_one_by_one(
    events: list[tuple[Any, ...]],
) -> None:
    assert _after(events, _together) == _after(events, _alone)


def _pending(count: int, *, fence: Any = None) -> list[Capture]:
    """Return the captures of so many jobs, each with a file of its own."""
    fence = fence or factories.online()
    for at in range(count):
        end(begin(fence), fence, {"filename": f"{at}.png"}, at=float(at))
    return list(Capture.objects.filter(file=None).select_related("child").order_by("pk"))


def _stored_names(folder: Path) -> list[str]:
    return sorted(one.name for one in (folder / "results").iterdir())


@pytest.mark.parametrize("alike", [True, False])
def test_statements_do_not_grow_with_the_files_of_a_set(files_folder: Path, alike: bool) -> None:
    rows, counts = _pending(32), []
    for some in (rows[:2], rows[2:]):
        copies = [_copy(row, "cat" if alike else f"{row.pk}") for row in some]
        with database_work() as work:
            _together(copies)
        counts.append(work.statements)
    assert Capture.objects.filter(file=None, due_at__isnull=False).count() == 0
    assert StoredFile.objects.count() == len(_stored_names(files_folder)) == (1 if alike else 32)
    # The first file of a content is inserted; the content that is there is locked, and compared
    # with earlier ones.
    assert counts[1] <= counts[0] + 2 <= 14


def test_copy_that_fails_is_the_only_one_that_is_not_stored(files_folder: Path) -> None:
    first, bad, last = map(_copy, _pending(3), ("a", "b", "c"))
    bad.path.unlink()
    errors = captures_store([first, bad, last])
    assert {key: type(error) for key, error in errors.items()} == {
        bad.capture_id: FileNotFoundError
    }
    pending = list(Capture.objects.filter(file=None).values_list("pk", flat=True))
    assert (pending, len(_stored_names(files_folder))) == ([bad.capture_id], 2)


def test_output_that_is_marked_while_its_set_waits_is_not_stored(files_folder: Path) -> None:
    first, second = rows = _pending(2)
    copies = [_copy(row, f"{row.pk}") for row in rows]
    files.output_replaced(job_id=first.child_id, digest=first.digest or "")
    _together(copies)
    assert list(Capture.objects.filter(file__isnull=False)) == [second]
    assert StoredFile.objects.count() == len(_stored_names(files_folder)) == 1


def test_capture_that_another_process_has_stored_stays(files_folder: Path) -> None:
    rows = _pending(2)
    slow = [_copy(row, f"slow {row.pk}") for row in rows]
    _alone([_copy(rows[0], "quick")])
    _together(slow)
    contents = Capture.objects.order_by("pk").values_list("file__blake3", flat=True)
    assert list(contents) == [
        blake3(text.encode()).hexdigest() for text in ("quick", f"slow {rows[1].pk}")
    ]
    assert StoredFile.objects.count() == len(_stored_names(files_folder)) == 2


def test_file_that_was_copied_before_its_name_was_used_again_is_replaced(
    files_folder: Path,
) -> None:
    fence = factories.online()
    (early,) = _pending(1, fence=fence)
    _together([_copy(early)])
    end(begin(fence), fence, {"filename": "0.png"}, at=9.0)
    (late,) = Capture.objects.filter(file=None).select_related("child")
    _together([_copy(late)])
    # Both have the later file: it was written before the earlier capture was copied.
    (output,) = json.loads(ChildJob.objects.get(pk=early.child_id).outputs_json or "")["images"]
    assert (output["missing"], output["reason"]) == (True, "replaced")
    late.refresh_from_db()
    assert late.file is not None


def test_copies_of_one_name_in_a_set_are_compared_with_each_other(files_folder: Path) -> None:
    fence = factories.online()
    end(begin(fence), fence, {"filename": NAME}, at=0.0)
    early = Capture.objects.select_related("child").get()
    end(begin(fence), fence, {"filename": NAME}, at=9.0)
    late = Capture.objects.select_related("child").exclude(pk=early.pk).get()
    assert early.digest == late.digest
    # As if the end of the later job had been stored after the earlier copy.
    ChildJob.objects.filter(pk=early.child_id).update(outputs_json=early.child.outputs_json)
    _together([_copy(early), _copy(late)])
    (output,) = json.loads(ChildJob.objects.get(pk=early.child_id).outputs_json or "")["images"]
    assert output.get("reason") == "replaced"


def test_set_revises_the_groups_of_its_files(files_folder: Path) -> None:
    rows = _pending(3)
    before = dict(JobGroup.objects.values_list("pk", "revision"))
    _together([_copy(row, f"{row.pk}") for row in rows[:2]])
    after = dict(JobGroup.objects.values_list("pk", "revision"))
    changed = {row.child.group_id for row in rows[:2]}
    assert after == {key: revision + (key in changed) for key, revision in before.items()}


@pytest.mark.django_db(transaction=True)
def test_processes_that_store_the_same_files_side_by_side_store_each_once(
    files_folder: Path,
) -> None:
    rows = _pending(24)
    begins = Barrier(3)

    def store(at: int) -> None:
        some = rows[at * 6 : at * 6 + 12]  # half of them are those of another one, too
        copies = [_copy(row, f"{row.pk // 2}") for row in some]
        try:
            begins.wait(10.0)
            _together(copies)
        finally:
            connection.close()
            for one in copies:
                one.path.unlink(missing_ok=True)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(store, at) for at in range(3)]:
            done.result(60.0)
    assert not Capture.objects.filter(file=None).exists()
    keys = StoredFile.objects.values_list("blake3", "pk")
    assert _stored_names(files_folder) == sorted(f"{content}-{key}" for content, key in keys)
