"""Services of groups, and the events that they publish."""

import datetime as dt
import json
from typing import Any

import pytest
from django.db import transaction

from backends.models import Backend
from jobgroups import serializers
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.shapes.groups import CancelResult
from jobgroups.domain.states import AttemptState
from jobgroups.events import log
from jobgroups.events.messages import Message
from jobgroups.models import Attempt, ChildJob, JobEvent, JobGroup
from jobgroups.queries import groups
from jobgroups.serializers import truncate
from jobgroups.services import attempts, cancellation, expiry, runners
from jobgroups.services.transactions import group_transaction
from tests.harness import factories
from tests.harness.factories import accept, begin

pytestmark = pytest.mark.django_db


def test_missing_base_seed_is_drawn_and_stored() -> None:
    factories.backend()
    group = factories.submit("gpu-1")
    assert group.base_seed == group.children.get().seed


def test_cancel_ends_open_jobs_and_keeps_final_ones(fence: FencingToken) -> None:
    group = factories.submit(*["gpu-1"] * 4)
    done, failed = factories.claim(fence), factories.claim(fence)
    factories.finish(done, fence)
    factories.finish(failed, fence, AttemptState.ERROR)
    running = begin(fence)
    result = cancellation.group_cancel(group_id=group.id)
    assert result == CancelResult(
        cancelled=True, interrupted=2, already_complete=1, already_failed=1
    )
    statuses = [child.status for child in group.children.order_by("position")]
    assert statuses == ["completed", "failed", "cancelled", "cancelled"]
    stored = factories.fresh(group)
    assert stored.status == "cancelled"
    assert stored.completed_at is not None
    assert factories.types(group)[-3:] == ["child_cancelled", "child_cancelled", "group_complete"]
    attempt = Attempt.objects.get(pk=running.pk)
    assert (attempt.stop_reason, attempt.ended_at) == ("cancel", None)


def test_cancel_changes_nothing_when_the_group_is_final(fence: FencingToken) -> None:
    group = factories.submit()
    cancellation.group_cancel(group_id=group.id)
    before = factories.log(group)
    assert cancellation.group_cancel(group_id=group.id).interrupted == 0
    assert cancellation.group_cancel(group_id=group.id).cancelled
    assert factories.log(group) == before
    finished = factories.submit()
    factories.finish(factories.claim(fence), fence)
    result = cancellation.group_cancel(group_id=finished.id)
    assert result == CancelResult(
        cancelled=False, interrupted=0, already_complete=1, already_failed=0
    )


def test_group_does_not_complete_twice_when_its_status_is_derived_again(
    fence: FencingToken,
) -> None:
    group = factories.submit()
    factories.finish(factories.claim(fence), fence)
    before, completed_at = factories.log(group), factories.fresh(group).completed_at
    with group_transaction(group.id) as tx:
        tx.mark_changed()
    assert factories.log(group) == before
    assert factories.fresh(group).completed_at == completed_at


def test_cancel_of_the_last_open_job_ends_the_group(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1")
    factories.finish(factories.claim(fence), fence)
    last = group.children.order_by("position").last()
    assert last is not None
    assert cancellation.child_cancel(group_id=group.id, job_id=last.id)
    assert not cancellation.child_cancel(group_id=group.id, job_id=last.id)
    assert factories.fresh(group).status == "partial_complete"
    assert factories.types(group)[-1] == "group_complete"


def test_unstarted_jobs_of_an_unreachable_backend_fail(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1", "gpu-1")
    running, sent = factories.claim(fence), factories.claim(fence)
    factories.start(running, fence)
    attempts.attempt_accepted(attempt_id=sent.pk, fence=fence)
    assert expiry.children_fail_unavailable(fence=fence, away_s=600.0, reason="refused") == 2
    statuses = [child.status for child in group.children.order_by("position")]
    assert statuses == ["running", "failed", "failed"]
    child = group.children.get(position=1)
    assert child.error_message == "gpu-1 was not reachable for 600 s: refused"
    assert Attempt.objects.get(pk=sent.pk).stop_reason == "gave_up"
    assert Attempt.objects.get(pk=running.pk).stop_requested_at is None


def test_job_times_out_after_a_day_in_the_queue(fence: FencingToken) -> None:
    group = factories.submit()
    assert expiry.children_expire(fence=fence, limit_s=86_400) == 0
    ChildJob.objects.update(queued_at=now() - dt.timedelta(seconds=86_401))
    assert expiry.children_expire(fence=fence, limit_s=86_400) == 1
    child = group.children.get()
    assert child.status == "timeout"
    assert json.loads(child.error_details_json or "") == {"phase": "queued"}
    assert factories.types(group) == ["group_created", "child_timeout", "group_complete"]


def test_initial_state_of_a_thousand_jobs_is_truncated_to_one_frame() -> None:
    factories.backend()
    group = factories.submit(*["gpu-1"] * 1000)
    outputs = json.dumps({"images": [{"filename": "x" * 900}]})
    ChildJob.objects.update(status="completed", completed_at=now(), outputs_json=outputs)
    _, text = groups.group_stream_start(group.id, None)
    assert text is not None
    assert len(text.encode()) < 2**20
    frame = json.loads(text)
    assert len(frame["child_jobs"]) == 1000
    assert "outputs" in frame["truncated"]
    ChildJob.objects.update(variation_json=json.dumps({"6.text": "x" * 900}))
    frame = json.loads(groups.group_stream_start(group.id, None)[1] or "")
    assert (frame["child_jobs"], frame["children_next"]) == (
        [],
        f"/api/job-groups/{group.id}?limit=200",
    )


def test_waiting_reason_of_queued_and_running_children(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1")

    def reasons() -> list[str | None]:
        return [row["waiting_reason"] for row in groups.group_snapshot(group.id)["child_jobs"]]

    assert reasons() == ["No runner is alive: no job is sent until one starts."] * 2
    runners.runner_register(name="r", instance="i", version="1")
    claimed = accept(fence)
    assert reasons() == ["In the queue of gpu-1.", "1st in line for gpu-1."]
    factories.start(claimed, fence)
    Backend.objects.update(unreachable_since=now(), status_reason="connection refused")
    assert all("has not been reachable since" in (one or "") for one in reasons())
    Backend.objects.update(last_seen_at=now(), unreachable_since=now() - dt.timedelta(seconds=9))
    assert reasons()[0] is None, "it answers, and its running prompt is followed"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    found: list[Message] = []
    monkeypatch.setattr(log.hub, "publish", found.append)
    return found


def test_nothing_is_published_before_the_commit(
    published: list[Message], django_capture_on_commit_callbacks: Any
) -> None:
    factories.backend()
    with django_capture_on_commit_callbacks(execute=True):
        with pytest.raises(RuntimeError), transaction.atomic():
            factories.submit()
            raise RuntimeError
        with transaction.atomic():
            group = factories.submit()
            assert published == []
        assert published == []
    assert [message.group_id for message in published] == [group.id]


def test_one_transaction_publishes_one_message_with_its_frames(
    published: list[Message], django_capture_on_commit_callbacks: Any
) -> None:
    factories.backend()
    group = factories.submit("gpu-1", "gpu-1", "gpu-1")
    with django_capture_on_commit_callbacks(execute=True):
        cancellation.group_cancel(group_id=group.id)
    (message,) = published
    stored = JobEvent.objects.filter(group=group, seq__gt=1).order_by("seq")
    assert [(frame.seq, frame.text) for frame in message.events] == list(
        stored.values_list("seq", "frame")
    )
    assert [frame.is_final for frame in message.events] == [True, True, True, False]


def test_write_succeeds_when_publishing_fails(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def broken(message: Message) -> None:
        raise RuntimeError

    monkeypatch.setattr(log.hub, "publish", broken)
    factories.backend()
    with django_capture_on_commit_callbacks(execute=True):
        group = factories.submit()
    assert factories.types(group) == ["group_created"]


def end_of(**fields: Any) -> JobGroup:
    fence = factories.online()
    group, claimed = factories.claiming(fence)
    end = factories.end(**fields)
    attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=end)
    return group


def test_texts_are_truncated_in_events_and_complete_in_rows() -> None:
    long = "é" * 5000
    group = end_of(
        state=AttemptState.ERROR, error_message=long, error_details={"traceback": [long]}
    )
    failed = next(event for event in factories.log(group) if event["type"] == "child_failed")
    assert len(failed["error"].encode()) <= 2048
    assert len(failed["error_details"]["traceback"][0].encode()) <= 2048
    assert failed["error"].endswith("…")
    assert group.children.get().error_message == long


def test_frame_is_at_most_a_mebibyte() -> None:
    images = [{"filename": f"{n:06}.png", "url": "x" * 6000} for n in range(250)]
    group = end_of(outputs={"images": images})
    for event in JobEvent.objects.filter(group=group):
        assert len(event.frame.encode()) < 2**20
    completed = factories.log(group)[2]
    assert completed["type"] == "child_completed"
    assert (completed["outputs"], completed["truncated"]) == (None, ["outputs"])
    assert len(json.loads(group.children.get().outputs_json or "")["images"]) == 250


def test_group_complete_omits_results_that_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (log, serializers):
        monkeypatch.setattr(module, "MAX_FRAME_BYTES", 500)
    factories.backend()
    group = factories.submit(*["gpu-1"] * 4)
    cancellation.group_cancel(group_id=group.id)
    frame = factories.log(group)[-1]
    assert (frame["type"], frame["cancelled"]) == ("group_complete", 4)
    assert (frame["results"], frame["truncated"]) == ([], ["results"])


def test_text_is_truncated_at_a_whole_character() -> None:
    assert truncate("a" * 2048) == "a" * 2048
    cut = truncate("a" + "é" * 2000)
    assert cut is not None
    assert len(cut.encode()) <= 2048
    assert truncate(None) is None


def test_events_of_each_group_are_numbered_without_a_gap() -> None:
    factories.backend()
    first, second = factories.submit(), factories.submit()
    fence = factories.lease()
    factories.finish(factories.claim(fence), fence)
    factories.finish(factories.claim(fence), fence)
    for group in (first, second):
        assert [event["seq"] for event in factories.log(group)] == [1, 2, 3, 4]
        assert factories.fresh(group).seq == 4
