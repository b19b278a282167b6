"""The purge deletes old groups with all their rows, and nothing else."""

import datetime as dt
import json
import uuid
from collections.abc import Callable
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState
from jobgroups.errors import (
    GroupDeleted,
    GroupNotFound,
    GroupOpen,
    GroupStopping,
    IdempotencyConflict,
)
from jobgroups.models import (
    AbandonedPrompt,
    Attempt,
    Capture,
    ChildJob,
    DeletedSubmission,
    GroupLabel,
    JobEvent,
    JobGroup,
    StoredFile,
)
from jobgroups.services import purge
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.groups import Deletion, group_delete, group_deletion
from jobgroups.services.purge import Limits, Purged, groups_purge, groups_purgeable, retention_apply
from jobgroups.services.retries import group_retry
from jobgroups.services.stars import child_star
from tests.harness import factories
from tests.harness.races import race

pytestmark = pytest.mark.django_db

_OLD = dt.timedelta(days=100)
_CUT = dt.timedelta(days=90)


def _ended(
    *, age: dt.timedelta = _OLD, starred: bool = False, state: AttemptState = AttemptState.SUCCESS
) -> JobGroup:
    """Return a group of one child whose end is so long ago."""
    if not factories.Backend.objects.exists():
        factories.backend()
    fence = factories.lease()
    group, claimed = factories.running(fence, metadata={"scene": "shot_001"})
    assert factories.finish(claimed, fence, state)
    moment = now() - age
    JobGroup.objects.filter(pk=group.pk).update(created_at=moment, completed_at=moment)
    ChildJob.objects.filter(group=group).update(starred=starred)
    return factories.fresh(group)  # type: ignore[no-any-return]


def _purge(**fields: Any) -> Purged:
    limits = Limits(**{"age": _CUT, **fields})
    return sum(groups_purge(limits), Purged())


def _rows() -> list[int]:
    return [model.objects.count() for model in (JobGroup, ChildJob, Attempt, JobEvent, GroupLabel)]


def test_purge_deletes_old_groups_with_their_rows_and_counts_them_before() -> None:
    for _ in range(3):
        _ended()
    _ended(age=dt.timedelta(days=1))
    counted, due = groups_purgeable(Limits(age=_CUT))
    assert counted == Purged(groups=3, children=3)
    assert [one["reason"] for one in due] == ["days"] * 3
    assert _rows() == [4, 4, 4, 16, 4]
    assert _purge() == counted
    assert _rows() == [1, 1, 1, 4, 1]


def _abandon(attempt: Attempt) -> None:
    ids = {"backend_id": attempt.backend_id, "prompt_id": attempt.prompt_id}
    AbandonedPrompt.objects.create(attempt=attempt, created_at=now(), expires_at=now(), **ids)


@pytest.mark.parametrize(
    "change",
    [
        lambda: JobGroup.objects.update(completed_at=now() - dt.timedelta(days=89)),
        lambda: JobGroup.objects.update(completed_at=None, status="running"),
        # The runner needs the row of an attempt that it is to stop.
        lambda: Attempt.objects.update(state="running", ended_at=None),
        # Found at its backend, the prompt would be taken for another client's.
        lambda: _abandon(Attempt.objects.get()),
    ],
    ids=["young", "open", "pending stop", "abandoned prompt"],
)
def test_purge_keeps_a_group(change: Callable[[], None]) -> None:
    _ended()
    change()
    before = _rows()
    assert (_purge(), _rows()) == (Purged(), before)


def test_purge_keeps_a_starred_group_unless_requested() -> None:
    _ended(starred=True)
    assert _purge() == Purged()
    assert _purge(starred=True).groups == 1
    assert not JobGroup.objects.exists()


def test_purge_keeps_the_last_day() -> None:
    """A repeated submission must find its idempotency key."""
    for _ in range(2):
        _captured(_ended(age=dt.timedelta(hours=23)), size=9)
    assert _purge(age=dt.timedelta(0), groups=1, size_bytes=1) == Purged()


def _captured(group: JobGroup, *, size: int = 0, file: StoredFile | None = None) -> StoredFile:
    """Let a file of so many bytes, or one that another group has, be captured for the job of a
    group.
    """
    name = uuid.uuid4().hex
    file = file or StoredFile.objects.create(
        id=name, blake3=name, sha256=name, size_bytes=size, created_at=now()
    )
    assert Capture.objects.filter(child__group=group).update(file=file, due_at=None) == 1
    return file


def _groups(*days: int, **fields: Any) -> list[JobGroup]:
    """Return groups that ended so many days ago."""
    return [_ended(age=dt.timedelta(days=one), **fields) for one in days]


def _left() -> set[str]:
    return set(JobGroup.objects.values_list("pk", flat=True))


def test_days_of_a_group_replace_those_of_the_installation() -> None:
    short, kept, long, other = _groups(3, 3, 100, 100)
    for group, days in ((short, 2), (kept, 4), (long, 365)):
        JobGroup.objects.filter(pk=group.pk).update(retention_days=days)
    _purge()
    assert _left() == {kept.pk, long.pk}
    assert other.pk not in _left()


def test_limit_of_groups_keeps_those_that_ended_last_and_stars() -> None:
    (starred,) = _groups(50, starred=True)
    running, old, last, young = _groups(40, 30, 20, 10)
    JobGroup.objects.filter(pk=running.pk).update(completed_at=None, status="running")
    _, due = groups_purgeable(Limits(groups=2))
    assert [(one["id"], one["reason"]) for one in due] == [(old.pk, "groups")]
    _purge(age=None, groups=2)
    assert _left() == {starred.pk, running.pk, last.pk, young.pk}
    assert _purge(age=None, groups=9) == Purged()


def test_limit_of_bytes_deletes_the_oldest_groups_with_files() -> None:
    (starred,) = _groups(90, starred=True)
    by_age, plain, first, second, young = _groups(99, 80, 60, 50, 10)
    for group in (starred, by_age, young):
        _captured(group, size=100)
    _captured(second, file=_captured(first, size=30))
    # The file that goes by its age is none of the bytes that are kept; what two groups share counts
    # once.
    assert groups_purgeable(Limits(age=_CUT, size_bytes=230))[0].groups == 1
    _, due = groups_purgeable(Limits(age=dt.timedelta(days=95), size_bytes=229))
    assert [(one["id"], one["reason"]) for one in due] == [
        (by_age.pk, "days"),
        (first.pk, "bytes"),
        (second.pk, "bytes"),
    ]
    purged = _purge(age=dt.timedelta(days=95), size_bytes=229)
    assert (purged.groups, purged.files, purged.bytes) == (3, 2, 130)
    assert _left() == {starred.pk, plain.pk, young.pk}
    # Nothing that may go is left but the young group: the star keeps its file also beyond the
    # limit.
    assert _purge(age=None, size_bytes=1).bytes == 100
    assert _left() == {starred.pk, plain.pk}


@pytest.mark.django_db(transaction=True)
def test_retention_is_off_by_default_and_applied_by_one_process_at_a_time(
    settings: Settings,
) -> None:
    JobGroup.objects.filter(pk__in=[_ended().pk for _ in range(2)]).update(total_count=400)
    assert list(retention_apply()) == []
    settings.DIRECTOR_RETENTION_DAYS = 30
    first = retention_apply()
    assert next(first).groups == 1
    assert list(retention_apply()) == []
    assert [part.groups for part in first] == [1]


def test_purge_skips_a_group_that_was_reopened_meanwhile() -> None:
    first, second = _ended(), _ended()
    JobGroup.objects.filter(pk=first.pk).update(completed_at=None, status="running")
    assert purge.groups_delete([first.pk, second.pk], purge._purgeable(Limits(age=_CUT)))[0] == 1
    assert JobGroup.objects.get() == first


def _deleted(group: JobGroup) -> Deletion:
    found = group_deletion(group_id=group.pk)
    assert group_delete(group_id=group.pk) == found
    return found


def test_user_deletes_one_group_with_the_files_of_no_other() -> None:
    young, other = _ended(age=dt.timedelta(0), starred=True), _ended(age=dt.timedelta(0))
    _captured(other, file=_captured(young, size=7))
    assert _deleted(young) == Deletion(jobs=1, starred=1, files=0, bytes=0, kept_at_backends=True)
    assert (_left(), _rows(), StoredFile.objects.count()) == ({other.pk}, [1, 1, 1, 4, 1], 1)
    assert _deleted(other) == Deletion(jobs=1, starred=0, files=1, bytes=7, kept_at_backends=True)
    assert (_rows(), StoredFile.objects.count()) == ([0] * 5, 0)
    with pytest.raises(GroupNotFound):
        group_delete(group_id=other.pk)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda: JobGroup.objects.update(completed_at=None, status="running"), GroupOpen),
        (lambda: Attempt.objects.update(state="running", ended_at=None), GroupStopping),
        (lambda: _abandon(Attempt.objects.get()), GroupStopping),
    ],
    ids=["open", "pending stop", "abandoned prompt"],
)
def test_group_is_not_deleted_while_a_prompt_may_run(
    change: Callable[[], None], refusal: type[Exception]
) -> None:
    group = _ended()
    change()
    before = _rows()
    for service in (group_deletion, group_delete):
        with pytest.raises(refusal):
            service(group_id=group.pk)
    # It was idle when the request looked at it, and is not when it is locked.
    assert purge.groups_delete([group.pk], purge.ended_groups())[0] == 0
    assert _rows() == before


@pytest.mark.django_db(transaction=True)
def test_key_of_a_deleted_group_renders_nothing_for_a_day() -> None:
    factories.online()
    key = {"idempotency_key": "take-1", "idempotency_digest": "d"}
    group = factories.submit(**key)
    group_cancel(group_id=group.pk)
    assert _deleted(group).kept_at_backends is False
    # The lookup of the key came before the deletion: the transaction decides.
    with pytest.raises(GroupDeleted):
        factories.submit(**key)
    with pytest.raises(IdempotencyConflict):
        factories.submit(**key | {"idempotency_digest": "other"})
    assert not JobGroup.objects.exists()
    DeletedSubmission.objects.update(created_at=now() - dt.timedelta(hours=24))
    group_cancel(group_id=(again := factories.submit(**key)).pk)
    _deleted(again)
    assert DeletedSubmission.objects.get().created_at > now() - dt.timedelta(hours=1)


@pytest.mark.django_db(transaction=True)
def test_concurrent_submission_and_deletion_make_no_second_group() -> None:
    factories.online()
    for number in range(8):
        key = {"idempotency_key": f"take-{number}", "idempotency_digest": "d"}
        group = factories.submit(**key)
        group_cancel(group_id=group.pk)
        _, made = race(
            partial(group_delete, group_id=group.pk),
            partial(factories.submit, **key),
            refused=GroupDeleted,
        )
        assert isinstance(made, GroupDeleted) or made.pk == group.pk
        assert not JobGroup.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_concurrent_retry_and_deletion_are_serialized() -> None:
    for _ in range(8):
        JobGroup.objects.all().delete()
        group = _ended(state=AttemptState.ERROR)
        calls = [partial(one, group_id=group.pk) for one in (group_delete, group_retry)]
        deleted, retried = race(*calls, refused=(GroupNotFound, GroupOpen))
        assert isinstance(deleted, Deletion) == isinstance(retried, GroupNotFound)
        assert _rows()[:3] == ([0, 0, 0] if isinstance(deleted, Deletion) else [1, 1, 1])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_star", [False, True], ids=["retry", "star"])
def test_concurrent_write_and_purge_are_serialized(is_star: bool) -> None:
    for _ in range(8):
        JobGroup.objects.all().delete()
        group = _ended(state=AttemptState.ERROR)
        write = partial(group_retry, group_id=group.pk)
        if is_star:
            write = partial(
                child_star, group_id=group.pk, job_id=group.children.get().pk, starred=True
            )
        purged, done = race(_purge, write, refused=GroupNotFound)
        is_gone = isinstance(done, GroupNotFound)
        assert (purged.groups, _rows()[:3]) == ((1, [0, 0, 0]) if is_gone else (0, [1, 1, 1]))


def _said(*arguments: str) -> str:
    out = StringIO()
    call_command("purge", *arguments, stdout=out)
    return out.getvalue()


def test_purge_command_reports_and_deletes(settings: Settings) -> None:
    old, *_ = _groups(100, 80, 5)
    reason, total = _said("--older-than", "90d", "--dry-run").splitlines()
    assert (
        reason.endswith(": beyond the limit of days"),
        "Would delete 1 group that" in total,
    ) == (True, True)
    assert "Retention is off" in _said("--dry-run")
    settings.DIRECTOR_RETENTION_GROUPS = 2
    assert "when 2 groups have ended later" in _said("--dry-run")
    said = json.loads(_said("--dry-run", "--json"))
    assert [(one["id"], one["reason"]) for one in said["due"]] == [(old.pk, "groups")]
    assert "Deleted 1 group, with 1 job" in _said()
    said = json.loads(_said("--older-than", "12d", "--json"))
    assert (said["groups"], said["children"], said["dry_run"]) == (1, 1, False)
    assert JobGroup.objects.count() == 1
    with pytest.raises(CommandError, match="needs --older-than"):
        _said("--starred")


@pytest.mark.parametrize(
    "arguments", [["--older-than", age] for age in ("90", "23h", "99999999d", "9" * 20 + "d")]
)
def test_purge_command_requires_an_age_of_a_day(arguments: list[str]) -> None:
    _ended()
    with pytest.raises(CommandError, match="older-than"):
        call_command("purge", *arguments)
    assert JobGroup.objects.exists()
