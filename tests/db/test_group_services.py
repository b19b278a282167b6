"""Groups: submitted, cancelled, listed, read; and children that never come to execute."""

from __future__ import annotations

import datetime as dt
import json
import re

import pytest
from django.db import transaction

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.errors import ChildNotFound, GroupNotFound, IdempotencyConflict, InvalidRequest
from jobgroups.models import Attempt, ChildJob, JobEvent, JobGroup, Runner
from jobgroups.queries import groups as selectors
from jobgroups.queries import leases
from jobgroups.queries.groups import GroupFilter
from jobgroups.services import attempts, cancellation, expiry, runners, submission
from jobgroups.services.leases import lease_acquire
from jobgroups.services.transactions import group_transaction
from tests.harness import factories
from tests.harness.factories import accept, begin

pytestmark = pytest.mark.django_db


def test_seeds_follow_the_strategy_from_the_base_seed() -> None:
    factories.backend()
    group = factories.submit(*["gpu-1"] * 4, seed_strategy="golden_ratio", base_seed=42)
    assert [child.seed for child in group.children.order_by("position")] == [42, 67, 109, 177]


def test_missing_base_seed_is_drawn_and_stored() -> None:
    factories.backend()
    group = factories.submit("gpu-1")
    assert group.base_seed == group.children.get().seed


def test_metadata_keeps_its_key_order() -> None:
    factories.backend()
    metadata = {"z": 1, "a": {"k": [1, "é"]}, "scene": "shot_001"}
    group = factories.submit(metadata=metadata)
    back = selectors.group_snapshot(group.id)["metadata"]
    assert json.dumps(back) == json.dumps(metadata)


def test_nothing_is_stored_when_the_transaction_fails() -> None:
    factories.backend()
    with pytest.raises(RuntimeError), transaction.atomic():
        factories.submit()
        raise RuntimeError
    assert not JobGroup.objects.exists()
    assert not JobEvent.objects.exists()


def test_cancel_ends_open_jobs_and_keeps_final_ones(fence: FencingToken) -> None:
    group = factories.submit(*["gpu-1"] * 4)
    done, failed = factories.claim(fence), factories.claim(fence)
    factories.finish(done, fence)
    factories.finish(failed, fence, AttemptState.ERROR)
    running = begin(fence)
    told = cancellation.group_cancel(group_id=group.id)
    assert told == cancellation.Cancelled(cancelled=True, interrupted=2, already_complete=1, already_failed=1)
    assert [child.status for child in group.children.order_by("position")] == [
        "completed",
        "failed",
        "cancelled",
        "cancelled",
    ]
    stored = factories.fresh(group)
    assert stored.status == "cancelled"
    assert stored.completed_at is not None
    assert factories.types(group)[-3:] == ["child_cancelled", "child_cancelled", "group_complete"]
    attempt = Attempt.objects.get(pk=running.attempt_id)
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
    told = cancellation.group_cancel(group_id=finished.id)
    assert told == cancellation.Cancelled(cancelled=False, interrupted=0, already_complete=1, already_failed=0)


def test_group_does_not_complete_twice_when_its_status_is_derived_again(fence: FencingToken) -> None:
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


def test_cancel_of_an_unknown_group_or_job_is_refused() -> None:
    factories.backend()
    group = factories.submit()
    with pytest.raises(GroupNotFound, match="Job group jg_0 not found"):
        cancellation.group_cancel(group_id="jg_0")
    with pytest.raises(ChildNotFound):
        cancellation.child_cancel(group_id=group.id, job_id="j_0")


def test_idempotency_key_replays_the_group_or_conflicts() -> None:
    factories.backend()
    first = factories.submit(idempotency_key="k", idempotency_digest="a")
    replay = submission.group_replay(submitter="", key="k", digest="a")
    assert replay is not None
    assert replay.group.id == first.id
    with pytest.raises(IdempotencyConflict):
        submission.group_replay(submitter="", key="k", digest="b")
    # The loser of two simultaneous submissions gets the winner's group.
    assert factories.submit(idempotency_key="k", idempotency_digest="a").id == first.id
    assert JobGroup.objects.count() == 1


def test_idempotency_key_expires_after_a_day() -> None:
    factories.backend()
    first = factories.submit(idempotency_key="k", idempotency_digest="a")
    JobGroup.objects.filter(pk=first.pk).update(created_at=now() - dt.timedelta(hours=25))
    assert submission.group_replay(submitter="", key="k", digest="b") is None
    second = factories.submit(idempotency_key="k", idempotency_digest="b")
    assert second.id != first.id


def test_unstarted_jobs_of_an_unreachable_backend_fail(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1", "gpu-1")
    running, sent = factories.claim(fence), factories.claim(fence)
    factories.start(running, fence)
    attempts.attempt_accepted(attempt_id=sent.attempt_id, fence=fence)
    assert expiry.children_fail_unavailable(fence=fence, away_s=600.0, reason="refused") == 2
    statuses = [child.status for child in group.children.order_by("position")]
    assert statuses == ["running", "failed", "failed"]
    child = group.children.get(position=1)
    assert child.error_message == "gpu-1 was not reachable for 600 s: refused"
    assert Attempt.objects.get(pk=sent.attempt_id).stop_reason == "gave_up"
    assert Attempt.objects.get(pk=running.attempt_id).stop_requested_at is None


def test_unsent_jobs_of_a_disabled_backend_fail(fence: FencingToken) -> None:
    group = factories.submit("gpu-1", "gpu-1")
    factories.claim(fence)
    assert expiry.children_fail_disabled(fence=fence) == 1
    assert [child.status for child in group.children.order_by("position")] == ["queued", "failed"]


def test_job_times_out_after_a_day_in_the_queue(fence: FencingToken) -> None:
    group = factories.submit()
    assert expiry.children_expire(fence=fence, limit_s=86_400) == 0
    ChildJob.objects.update(queued_at=now() - dt.timedelta(seconds=86_401))
    assert expiry.children_expire(fence=fence, limit_s=86_400) == 1
    child = group.children.get()
    assert child.status == "timeout"
    assert json.loads(child.error_details_json or "") == {"phase": "queued"}
    assert factories.types(group) == ["group_created", "child_timeout", "group_complete"]


def test_stream_of_a_final_group_starts_before_group_complete(fence: FencingToken) -> None:
    group = factories.submit()
    factories.finish(factories.claim(fence), fence)
    last = factories.fresh(group).seq
    seq, text = selectors.group_stream_start(group.id, None)
    assert seq == last - 1
    assert json.loads(text or "")["type"] == "initial_state"
    rest = [json.loads(frame)["type"] for _, frame in selectors.group_events(group.id, since=seq)]
    assert rest == ["group_complete"]


@pytest.mark.parametrize(("since", "known"), [(0, 0), (1, 1), (2, None), (-1, None), (None, None)])
def test_stream_resumes_only_from_an_existing_seq(since: int | None, known: int | None) -> None:
    factories.backend()
    group = factories.submit()
    seq, text = selectors.group_stream_start(group.id, since)
    assert (seq, text is None) == ((known, True) if known is not None else (1, False))


def test_initial_state_of_a_thousand_jobs_is_truncated_to_one_frame() -> None:
    factories.backend()
    group = factories.submit(*["gpu-1"] * 1000)
    outputs = json.dumps({"images": [{"filename": "x" * 900}]})
    ChildJob.objects.update(status="completed", completed_at=now(), outputs_json=outputs)
    _, text = selectors.group_stream_start(group.id, None)
    assert text is not None
    assert len(text.encode()) < 2**20
    frame = json.loads(text)
    assert len(frame["child_jobs"]) == 1000
    assert "outputs" in frame["truncated"]


def test_group_list_pages_in_both_directions() -> None:
    factories.backend()
    ids = [factories.submit().id for _ in range(7)]
    moment = now()
    JobGroup.objects.filter(pk__in=ids[:4]).update(created_at=moment)  # ties are broken by id
    everything = [
        row["job_group_id"] for row in selectors.group_list(filters=GroupFilter(), cursor=None, limit=100).results
    ]
    seen: list[str] = []
    cursor, pages = None, []
    while True:
        page = selectors.group_list(filters=GroupFilter(), cursor=cursor, limit=3)
        pages.append([row["job_group_id"] for row in page.results])
        seen += pages[-1]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == everything
    assert page.previous_cursor is not None
    back = selectors.group_list(filters=GroupFilter(), cursor=page.previous_cursor, limit=3)
    assert [row["job_group_id"] for row in back.results] == pages[-2]


def test_group_list_filters_by_status_backend_metadata_and_time() -> None:
    factories.backend("gpu-1")
    factories.backend("gpu-2")
    one = factories.submit("gpu-1", metadata={"scene": "a", "panel_id": 3})
    two = factories.submit("gpu-2", metadata={"scene": "b"})
    cancellation.group_cancel(group_id=two.id)

    def found(**narrowed: object) -> list[str]:
        page = selectors.group_list(
            filters=GroupFilter(**narrowed),  # type: ignore[arg-type]
            cursor=None,
            limit=10,
        )
        return [row["job_group_id"] for row in page.results]

    assert found(status="cancelled") == [two.id]
    assert found(backend="gpu-1") == [one.id]
    assert found(metadata={"scene": "a", "panel_id": "3"}) == [one.id]
    assert found(metadata={"scene": "a", "panel_id": "4"}) == []
    assert found(created_after=now() + dt.timedelta(hours=1)) == []
    assert len(found(created_before=now() + dt.timedelta(hours=1))) == 2


@pytest.mark.parametrize("cursor", ["x", "ZnwyMDI2", "////", "🎬"])
def test_group_list_refuses_an_invalid_cursor(cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        selectors.group_list(filters=GroupFilter(), cursor=cursor, limit=10)


def test_runner_is_alive_while_its_heartbeat_is_recent() -> None:
    assert not leases.runner_alive()
    runners.runner_register(name="r", instance="i", version="1")
    assert leases.runner_alive()
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(seconds=11))
    assert not leases.runner_alive()
    assert runners.runner_heartbeat(name="r", instance="i")
    assert leases.runner_alive()
    assert not runners.runner_heartbeat(name="r", instance="another")
    runners.runner_deregister(name="r", instance="i")
    assert not leases.runner_alive()


def test_lease_is_acquired_when_free_own_or_expired() -> None:
    factories.backend()
    first = lease_acquire(backend_id="gpu-1", runner="a")
    assert first is not None
    assert lease_acquire(backend_id="gpu-1", runner="b") is None
    again = lease_acquire(backend_id="gpu-1", runner="a")
    assert again is not None
    assert again.epoch == first.epoch + 1
    runners.runner_register(name="a", instance="i", version="1")
    runners.runner_deregister(name="a", instance="i")
    taken = lease_acquire(backend_id="gpu-1", runner="b")
    assert taken is not None
    assert taken.epoch == again.epoch + 1
    assert lease_acquire(backend_id="gone", runner="b") is None


def test_waiting_reason_of_queued_and_running_children() -> None:
    factories.backend(reachability="online", last_seen_at=now())
    fence = factories.lease()
    group = factories.submit("gpu-1", "gpu-1")

    def reasons() -> list[str | None]:
        return [row["waiting_reason"] for row in selectors.group_snapshot(group.id)["child_jobs"]]

    assert reasons() == ["No runner is alive to send it."] * 2
    runners.runner_register(name="r", instance="i", version="1")
    claimed = accept(fence)
    assert reasons() == ["In the queue of gpu-1.", "1st in line for gpu-1."]
    factories.start(claimed, fence)
    Backend.objects.update(unreachable_since=now(), status_reason="connection refused")
    running, queued = reasons()
    assert "not been reachable" in (queued or "")
    assert "Given up at" in (queued or "")
    assert re.fullmatch(
        r"gpu-1 has not been reachable since \S+ UTC: connection refused\."
        r" Fails at \S+ UTC if the backend does not answer by then\.",
        running or "",
    )
    Backend.objects.update(last_seen_at=now(), unreachable_since=now() - dt.timedelta(seconds=9))
    assert reasons()[0] is None, "it answers, and its running prompt is followed"
