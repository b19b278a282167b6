from typing import Any

import pytest

from jobgroups.domain import notices, text
from jobgroups.domain.notices import GroupSummary, Message, NoticeIntervals, NoticeKind, StoredNotice, Urgency


def end(completed: int, failed: int = 0, cancelled: int = 0, **fields: Any) -> GroupSummary:
    given = {"name": "shot_001", "seconds": 840, "reasons": {}, **fields}
    total = completed + failed + cancelled
    return GroupSummary(total=total, completed=completed, failed=failed, cancelled=cancelled, **given)


FOUR = {("timeout", "gpu-1"): 5, ("node_error", "gpu-2"): 2, ("stalled", "gpu-3"): 2}
OOM = {("out_of_memory", "gpu-2"): 1}


@pytest.mark.parametrize(
    ("ended", "title", "more"),
    [
        (end(12), "all 12 done", ", took 14 min"),
        (end(1), "done", ", took 14 min"),
        (end(11, 1, reasons=OOM), "11 of 12 done, 1 failed", " (out of memory on gpu-2), took 14 min"),
        (end(5, late=1, seconds=61), "all 5 done", " (1 on a later try), took 1 min"),
        (end(1, late=1, seconds=61), "done", " (on a later try), took 1 min"),
        (
            end(2, 10, reasons={**FOUR, ("", "gpu-4"): 1}),
            "2 of 12 done, 10 failed",
            " (5 timed out on gpu-1, 2 node error on gpu-2, 2 stalled on gpu-3, 1 for other reasons), took 14 min",
        ),
        (end(3, cancelled=9, is_cancelled=True, seconds=5), "cancelled, 3 of 12 done", ", took 5 s"),
        (end(11, cancelled=1), "11 of 12 done, 1 cancelled", ", took 14 min"),
    ],
)
def test_a_group_is_told_in_one_plain_sentence(ended: GroupSummary, title: str, more: str) -> None:
    urgency = Urgency.FAILURE if ended.failed else Urgency.NORMAL
    title = f"shot_001: {title}"
    assert notices.group_ended(ended) == Message(title, title + more, urgency)


def test_the_link_stands_on_a_line_of_its_own_and_titles_fit_their_column() -> None:
    told = notices.group_ended(end(12, name="x" * 400), "http://farm/groups/jg_1")
    assert told.body.split("\n")[1:] == ["http://farm/groups/jg_1"]
    assert len(told.title) == 250


def told(kind: NoticeKind, title: str, urgency: Urgency = Urgency.NORMAL) -> StoredNotice:
    return StoredNotice(kind, title, f"{title}, took 1 min\nhttp://farm/x", urgency)


def test_many_become_one_with_trouble_and_failures_first_and_one_stays() -> None:
    one = told(NoticeKind.GROUP_ENDED, "a: done")
    assert notices.merged([one], "http://farm/") == Message(one.title, one.body)
    two = [told(NoticeKind.BACKEND_TROUBLE, f"gpu-{one} does not answer") for one in (1, 2)]
    assert notices.merged(two).title == "2 backends in trouble"
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


def test_pauses_double_up_to_the_longest() -> None:
    found = [NoticeIntervals().pause_after(tries) for tries in (0, 1, 2, 3, 7, 90)]
    assert found == [60, 60, 120, 240, 3600, 3600]


def test_a_model_is_named_without_folder_and_ending() -> None:
    graph = {
        "1": {"class_type": "LoraLoader", "inputs": {"lora_name": "x.safetensors"}},
        "4": {"class_type": "C", "inputs": {"ckpt_name": "sdxl\\base_1.0.safetensors"}},
    }
    assert text.model_name(graph) == "base_1.0"
    assert text.model_name({"1": {"inputs": {"ckpt_name": ["4", 0]}}}) == ""
    assert text.model_name([1]) == ""
