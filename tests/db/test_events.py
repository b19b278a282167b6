"""Events: rows of the transaction that changed something, published once after its commit."""

import json
from typing import Any

import pytest
from django.db import transaction

from jobgroups.domain.states import AttemptState
from jobgroups.events import log
from jobgroups.events.messages import Message
from jobgroups.models import JobEvent, JobGroup
from jobgroups.serializers import truncate
from jobgroups.services import attempts, cancellation
from tests.harness import factories

pytestmark = pytest.mark.django_db


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
        with transaction.atomic():
            group = factories.submit()
            assert published == []
        assert published == []
    assert [message.group_id for message in published] == [group.id]


def test_nothing_is_published_when_the_transaction_fails(
    published: list[Message], django_capture_on_commit_callbacks: Any
) -> None:
    factories.backend()
    with django_capture_on_commit_callbacks(execute=True), pytest.raises(RuntimeError), transaction.atomic():
        factories.submit()
        raise RuntimeError
    assert published == []


def test_one_transaction_publishes_one_message_with_its_frames(
    published: list[Message], django_capture_on_commit_callbacks: Any
) -> None:
    factories.backend()
    group = factories.submit("gpu-1", "gpu-1", "gpu-1")
    with django_capture_on_commit_callbacks(execute=True):
        cancellation.group_cancel(group_id=group.id)
    (message,) = published
    stored = JobEvent.objects.filter(group=group, seq__gt=1).order_by("seq")
    assert [(frame.seq, frame.text) for frame in message.events] == list(stored.values_list("seq", "frame"))
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
    group = factories.submit()
    claimed = factories.claim(fence)
    end = factories.end(**fields)
    attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end)
    return group


def test_texts_are_truncated_in_events_and_complete_in_rows() -> None:
    long = "é" * 5000
    group = end_of(state=AttemptState.ERROR, error_message=long, error_details={"traceback": [long]})
    failed = next(event for event in factories.log(group) if event["type"] == "child_failed")
    assert len(failed["error"].encode()) <= 2048
    assert len(failed["error_details"]["traceback"][0].encode()) <= 2048
    assert failed["error"].endswith("…")
    assert group.children.get().error_message == long


def test_frame_is_at_most_a_mebibyte() -> None:
    images = [{"filename": f"{n:06}.png", "url": "x" * 300} for n in range(5000)]
    group = end_of(outputs={"images": images})
    for event in JobEvent.objects.filter(group=group):
        assert len(event.frame.encode()) < 2**20
    completed = factories.log(group)[2]
    assert completed["type"] == "child_completed"
    assert (completed["outputs"], completed["truncated"]) == (None, ["outputs"])
    assert len(json.loads(group.children.get().outputs_json or "")["images"]) == 5000


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
