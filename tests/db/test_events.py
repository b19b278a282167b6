"""Events: rows of the transaction that moved something, rung once after its commit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import transaction

from jobgroups.domain.states import AttemptState
from jobgroups.events import log
from jobgroups.events.hub import Message
from jobgroups.models import JobEvent
from jobgroups.serializers import truncate
from jobgroups.services import cancellation
from tests.harness import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Collect what is rung, and with it whether its rows were there."""
    heard: list[Message] = []
    monkeypatch.setattr(log.hub, "publish", heard.append)
    return heard


def test_nothing_is_published_before_the_commit(rung: list[Message], django_capture_on_commit_callbacks: Any) -> None:
    factories.backend()
    with django_capture_on_commit_callbacks(execute=True):
        with transaction.atomic():
            group = factories.submit()
            assert rung == []
        assert rung == []
    assert [message.group_id for message in rung] == [group.id]


def test_nothing_is_published_when_the_transaction_fails(
    rung: list[Message], django_capture_on_commit_callbacks: Any
) -> None:
    factories.backend()
    with django_capture_on_commit_callbacks(execute=True), pytest.raises(RuntimeError), transaction.atomic():
        factories.submit()
        raise RuntimeError
    assert rung == []


def test_one_transaction_publishes_one_message_with_its_frames(
    rung: list[Message], django_capture_on_commit_callbacks: Any
) -> None:
    factories.backend()
    group = factories.submit("gpu-1", "gpu-1", "gpu-1")
    with django_capture_on_commit_callbacks(execute=True):
        cancellation.group_cancel(group_id=group.id)
    (message,) = rung
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


def test_texts_are_truncated_in_events_and_complete_in_rows() -> None:
    factories.backend()
    fence = factories.lease()
    group = factories.submit()
    claimed = factories.claim(fence)
    long = "é" * 5000
    from jobgroups.services import attempts

    end = factories.end(AttemptState.ERROR, error_message=long, error_details={"traceback": [long]})
    attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end)
    failed = next(event for event in factories.log(group) if event["type"] == "child_failed")
    assert len(failed["error"].encode()) <= 2048
    assert len(failed["error_details"]["traceback"][0].encode()) <= 2048
    assert failed["error"].endswith("…")
    assert group.children.get().error_message == long


def test_frame_is_at_most_a_mebibyte() -> None:
    factories.backend()
    fence = factories.lease()
    group = factories.submit()
    images = [{"filename": f"{n:06}.png", "url": "x" * 300} for n in range(5000)]
    claimed = factories.claim(fence)
    from jobgroups.services import attempts

    end = factories.end(outputs={"images": images})
    attempts.attempt_ended(attempt_id=claimed.attempt_id, fence=fence, end=end)
    for event in JobEvent.objects.filter(group=group):
        assert len(event.frame.encode()) < 2**20
    completed = factories.log(group)[2]
    assert completed["type"] == "child_completed"
    assert completed["outputs"] is None
    assert completed["truncated"] == ["outputs"]
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
