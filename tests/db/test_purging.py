"""The purge deletes old groups with all their rows, and nothing else."""

import datetime as dt
import json
from collections.abc import Callable
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState
from jobgroups.errors import GroupNotFound
from jobgroups.models import AbandonedPrompt, Attempt, ChildJob, GroupLabel, JobEvent, JobGroup
from jobgroups.services import purge
from jobgroups.services.purge import Purged, groups_purge, groups_purgeable
from jobgroups.services.retries import group_retry
from tests.harness import factories
from tests.harness.factories import begin
from tests.harness.races import race

pytestmark = pytest.mark.django_db

_OLD = dt.timedelta(days=100)
_CUT = dt.timedelta(days=90)


def _ended(*, age: dt.timedelta = _OLD, starred: bool = False, state: AttemptState = AttemptState.SUCCESS) -> JobGroup:
    """Return a group of one child whose end is so long ago."""
    if not factories.Backend.objects.exists():
        factories.backend()
    fence = factories.lease()
    group = factories.submit(metadata={"scene": "shot_001"})
    claimed = begin(fence)
    assert factories.finish(claimed, fence, state)
    moment = now() - age
    JobGroup.objects.filter(pk=group.pk).update(created_at=moment, completed_at=moment)
    ChildJob.objects.filter(group=group).update(starred=starred)
    return factories.fresh(group)  # type: ignore[no-any-return]


def _purge(**fields: Any) -> Purged:
    fields = {"before": now() - _CUT, "starred": False, **fields}
    return sum(groups_purge(**fields), Purged())


def _rows() -> list[int]:
    return [model.objects.count() for model in (JobGroup, ChildJob, Attempt, JobEvent, GroupLabel)]


def test_purge_deletes_old_groups_with_their_rows_and_counts_them_before() -> None:
    for _ in range(3):
        _ended()
    _ended(age=dt.timedelta(days=1))
    said = groups_purgeable(before=now() - _CUT, starred=False)
    assert said == Purged(groups=3, children=3, attempts=3, events=12)
    assert _rows() == [4, 4, 4, 16, 4]
    assert _purge() == said
    assert _rows() == [1, 1, 1, 4, 1]


def _young() -> None:
    _ended(age=dt.timedelta(days=89))


def _open() -> None:
    factories.backend()
    group = factories.submit()
    JobGroup.objects.filter(pk=group.pk).update(created_at=now() - _OLD)


def _with_pending_stop() -> None:
    """The runner needs the row of an attempt that it is to stop."""
    _ended()
    Attempt.objects.update(state="running", ended_at=None)


def _with_abandoned_prompt() -> None:
    """Found at its backend, the prompt would be taken for another client's."""
    _ended()
    attempt = Attempt.objects.get()
    AbandonedPrompt.objects.create(
        attempt=attempt,
        backend_id=attempt.backend_id,
        prompt_id=attempt.prompt_id,
        created_at=now(),
        expires_at=now() + dt.timedelta(hours=1),
    )


@pytest.mark.parametrize("submit", [_young, _open, _with_pending_stop, _with_abandoned_prompt])
def test_purge_keeps_a_group(submit: Callable[[], None]) -> None:
    submit()
    before = _rows()
    assert _purge() == Purged()
    assert _rows() == before


def test_purge_keeps_a_starred_group_unless_requested() -> None:
    _ended(starred=True)
    assert _purge() == Purged()
    assert _purge(starred=True).groups == 1
    assert not JobGroup.objects.exists()


def test_purge_refuses_the_last_day() -> None:
    """A repeated submission must find its idempotency key."""
    with pytest.raises(ValueError, match="1 day"):
        groups_purge(before=now() - dt.timedelta(hours=23), starred=False)


def test_purge_uses_several_transactions() -> None:
    for _ in range(3):
        _ended()
    JobGroup.objects.update(total_count=400)
    parts = list(groups_purge(before=now() - _CUT, starred=False))
    assert [part.groups for part in parts] == [1, 1, 1]
    assert not JobGroup.objects.exists()


def test_purge_skips_a_group_that_was_reopened_meanwhile() -> None:
    first, second = _ended(), _ended()
    JobGroup.objects.filter(pk=first.pk).update(completed_at=None, status="running")
    assert purge._delete([first.pk, second.pk], now() - _CUT, False).groups == 1
    assert JobGroup.objects.get() == first


@pytest.mark.django_db(transaction=True)
def test_concurrent_retry_and_purge_are_serialized() -> None:
    for _ in range(8):
        JobGroup.objects.all().delete()
        group = _ended(state=AttemptState.ERROR)
        retry = partial(group_retry, group_id=group.pk)
        purged, retried = race(_purge, retry, refused=GroupNotFound)
        if isinstance(retried, GroupNotFound):
            assert purged.groups == 1
            assert _rows() == [0, 0, 0, 0, 0]
        else:
            assert purged == Purged()
            assert _rows()[:3] == [1, 1, 1]
            assert factories.fresh(group).completed_at is None


def _said(*arguments: str) -> str:
    out = StringIO()
    call_command("purge", *arguments, stdout=out)
    return out.getvalue()


def test_purge_command_reports_and_deletes() -> None:
    _ended()
    assert _said("--older-than", "90d", "--dry-run").startswith("Would delete 1 group that ended")
    assert JobGroup.objects.exists()
    said = json.loads(_said("--older-than", "12w", "--json"))
    assert (said["groups"], said["children"], said["dry_run"]) == (1, 1, False)
    assert not JobGroup.objects.exists()


@pytest.mark.parametrize(
    "arguments", [[], *(["--older-than", age] for age in ("90", "23h", "99999999d", "9" * 20 + "d"))]
)
def test_purge_command_requires_an_age_of_a_day(arguments: list[str]) -> None:
    _ended()
    with pytest.raises(CommandError, match="older-than"):
        call_command("purge", *arguments)
    assert JobGroup.objects.exists()
