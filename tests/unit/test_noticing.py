"""What notices say, how many become one message, and how long they are put off."""

from __future__ import annotations

from typing import Any

import pytest

from jobgroups.domain import notices, text
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.notices import GroupSummary, Message, NoticeIntervals, NoticeKind, StoredNotice, Urgency


def end(**fields: Any) -> GroupSummary:
    given = {
        "name": "shot_001",
        "total": 12,
        "completed": 12,
        "failed": 0,
        "cancelled": 0,
        "seconds": 840,
        "reasons": {},
    }
    return GroupSummary(**{**given, **fields})


@pytest.mark.parametrize(
    ("ended", "title", "body"),
    [
        (end(), "shot_001: all 12 done", "shot_001: all 12 done, took 14 min"),
        (end(total=1, completed=1), "shot_001: done", "shot_001: done, took 14 min"),
        (
            end(completed=11, failed=1, reasons={("out_of_memory", "gpu-2"): 1}),
            "shot_001: 11 of 12 done, 1 failed",
            "shot_001: 11 of 12 done, 1 failed (out of memory on gpu-2), took 14 min",
        ),
        (
            end(total=5, completed=5, late=1, seconds=61),
            "shot_001: all 5 done",
            "shot_001: all 5 done (1 on a later try), took 1 min",
        ),
        (
            end(total=1, completed=1, late=1, seconds=61),
            "shot_001: done",
            "shot_001: done (on a later try), took 1 min",
        ),
        (
            end(
                completed=2,
                failed=10,
                reasons={
                    ("timeout", "gpu-1"): 5,
                    ("node_error", "gpu-2"): 2,
                    ("stalled", "gpu-3"): 2,
                    ("", "gpu-4"): 1,
                },
            ),
            "shot_001: 2 of 12 done, 10 failed",
            "shot_001: 2 of 12 done, 10 failed (5 timed out on gpu-1, 2 node error on gpu-2,"
            " 2 stalled on gpu-3, 1 for other reasons), took 14 min",
        ),
        (
            end(completed=3, cancelled=9, is_cancelled=True, seconds=5),
            "shot_001: cancelled, 3 of 12 done",
            "shot_001: cancelled, 3 of 12 done, took 5 s",
        ),
        (
            end(completed=11, cancelled=1),
            "shot_001: 11 of 12 done, 1 cancelled",
            "shot_001: 11 of 12 done, 1 cancelled, took 14 min",
        ),
    ],
)
def test_a_group_is_told_in_one_plain_sentence(ended: GroupSummary, title: str, body: str) -> None:
    urgency = Urgency.FAILURE if ended.failed else Urgency.NORMAL
    assert notices.group_ended(ended) == Message(title, body, urgency)


def test_the_link_stands_on_a_line_of_its_own_and_titles_fit_their_column() -> None:
    told = notices.group_ended(end(name="x" * 400), "http://farm/groups/jg_1")
    assert told.body.split("\n")[1:] == ["http://farm/groups/jg_1"]
    assert len(told.title) == 250


def test_every_failure_class_has_words() -> None:
    assert set(text.FAILURE_WORDS) == set(FailureClass)
    assert text.failure_label("") == "failed"


def told(kind: NoticeKind, title: str, urgency: Urgency = Urgency.NORMAL) -> StoredNotice:
    return StoredNotice(kind, title, f"{title}, took 1 min\nhttp://farm/x", urgency)


def test_one_notice_is_sent_as_it_is() -> None:
    one = told(NoticeKind.GROUP_ENDED, "a: done")
    assert notices.merged([one], "http://farm/") == Message(one.title, one.body)


def test_many_become_one_with_trouble_and_failures_first() -> None:
    many = [told(NoticeKind.GROUP_ENDED, f"s{number} failed: done") for number in range(200)]
    many.insert(150, told(NoticeKind.GROUP_ENDED, "bad: 1 of 2 done, 1 failed", Urgency.FAILURE))
    many.append(told(NoticeKind.BACKEND_TROUBLE, "gpu-2 is quarantined", Urgency.TROUBLE))
    many.append(told(NoticeKind.QUEUE_EMPTY, "The queue is empty"))
    message = notices.merged(many, "http://farm/")
    assert message.title == "gpu-2 is quarantined, 201 groups ended, the queue is empty"
    lines = message.body.split("\n")
    assert lines[0].startswith("gpu-2 is quarantined")
    assert lines[1].startswith("bad: 1 of 2 done, 1 failed")
    assert lines[-2:] == ["… and 163 more", "http://farm/"]
    assert len(lines) == 42


def test_two_backends_in_trouble_are_counted() -> None:
    many = [told(NoticeKind.BACKEND_TROUBLE, f"gpu-{one} does not answer") for one in (1, 2)]
    assert notices.merged(many).title == "2 backends in trouble"


def test_pauses_double_up_to_the_longest() -> None:
    pace = NoticeIntervals()
    assert [pace.pause_after(tries) for tries in (0, 1, 2, 3, 7, 90)] == [60, 60, 120, 240, 3600, 3600]


def test_a_model_is_named_without_folder_and_ending() -> None:
    graph = {
        "1": {"class_type": "LoraLoader", "inputs": {"lora_name": "x.safetensors"}},
        "4": {"class_type": "C", "inputs": {"ckpt_name": "sdxl\\base_1.0.safetensors"}},
    }
    assert text.model_name(graph) == "base_1.0"
    assert text.model_name({"1": {"inputs": {"ckpt_name": ["4", 0]}}}) == ""
    assert text.model_name([1]) == ""
