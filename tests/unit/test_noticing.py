"""Notices: their sentences, and that no part of a service's URL is shown."""

from typing import Any

import pytest

from jobgroups.domain import notices
from jobgroups.domain.notices import (
    GroupSummary,
    Message,
    NoticeIntervals,
    NoticeKind,
    StoredNotice,
    Urgency,
)
from jobgroups.runner.notices import channels
from tests.harness.processes import python

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


def end(completed: int, failed: int = 0, cancelled: int = 0, **fields: Any) -> GroupSummary:
    given = {"name": "shot_001", "seconds": 840, "reasons": {}, **fields}
    total = completed + failed + cancelled
    return GroupSummary(
        total=total, completed=completed, failed=failed, cancelled=cancelled, **given
    )


@pytest.mark.parametrize(
    ("counts", "reasons", "fields", "title", "more"),
    [
        ([12], [], {}, "all 12 done", ", took 14 min"),
        ([1], [], {}, "done", ", took 14 min"),
        (
            [11, 1],
            [["out_of_memory", "gpu-2", 1]],
            {},
            "11 of 12 done, 1 failed",
            " (out of memory on gpu-2), took 14 min",
        ),
        ([5], [], {"late": 1, "seconds": 61}, "all 5 done", " (1 on a later try), took 1 min"),
        ([1], [], {"late": 1, "seconds": 61}, "done", " (on a later try), took 1 min"),
        (
            [2, 10],
            [
                ["timeout", "gpu-1", 5],
                ["node_error", "gpu-2", 2],
                ["stalled", "gpu-3", 2],
                ["", "gpu-4", 1],
            ],
            {},
            "2 of 12 done, 10 failed",
            " (5 timed out on gpu-1, 2 node error on gpu-2, 2 stalled on gpu-3, 1 for other reasons), took 14 min",
        ),
        (
            [3],
            [],
            {"cancelled": 9, "is_cancelled": True, "seconds": 5},
            "cancelled, 3 of 12 done",
            ", took 5 s",
        ),
        ([11], [], {"cancelled": 1}, "11 of 12 done, 1 cancelled", ", took 14 min"),
    ],
)
def test_a_group_is_told_in_one_plain_sentence(
    counts: Any, reasons: Any, fields: Any, title: str, more: str
) -> None:
    ended = end(
        *counts, reasons={(code, backend): count for code, backend, count in reasons}, **fields
    )
    urgency = Urgency.FAILURE if ended.failed else Urgency.NORMAL
    title = f"shot_001: {title}"
    assert notices.group_ended(ended) == Message(title, title + more, urgency)


def test_the_link_stands_on_a_line_of_its_own_and_titles_fit_their_column() -> None:
    notice = notices.group_ended(end(12, name="x" * 400), "http://farm/groups/jg_1")
    assert notice.body.split("\n")[1:] == ["http://farm/groups/jg_1"]
    assert len(notice.title) == 250


def stored_notice(kind: NoticeKind, title: str, urgency: Urgency = Urgency.NORMAL) -> StoredNotice:
    return StoredNotice(kind, title, f"{title}, took 1 min\nhttp://farm/x", urgency)


def test_many_become_one_with_trouble_and_failures_first_and_one_stays() -> None:
    one = stored_notice(NoticeKind.GROUP_ENDED, "a: done")
    assert notices.merge([one], "http://farm/") == Message(one.title, one.body)
    two = [
        stored_notice(NoticeKind.BACKEND_TROUBLE, f"gpu-{one} does not answer") for one in (1, 2)
    ]
    assert notices.merge(two).title == "2 backends in trouble"
    many = [
        stored_notice(NoticeKind.GROUP_ENDED, f"s{number} failed: done") for number in range(200)
    ]
    many.insert(
        150, stored_notice(NoticeKind.GROUP_ENDED, "bad: 1 of 2 done, 1 failed", Urgency.FAILURE)
    )
    many.append(stored_notice(NoticeKind.BACKEND_TROUBLE, "gpu-2 is quarantined", Urgency.TROUBLE))
    many.append(stored_notice(NoticeKind.QUEUE_EMPTY, "The queue is empty"))
    message = notices.merge(many, "http://farm/")
    assert message.title == "gpu-2 is quarantined, 201 groups ended, the queue is empty"
    lines = message.body.split("\n")
    assert lines[0].startswith("gpu-2 is quarantined")
    assert lines[1].startswith("bad: 1 of 2 done, 1 failed")
    assert lines[-2:] == ["… and 163 more", "http://farm/"]
    assert len(lines) == 42


def test_pauses_double_up_to_the_longest() -> None:
    found = [NoticeIntervals().pause_after(tries) for tries in (0, 1, 2, 3, 7, 90)]
    assert found == [60, 60, 120, 240, 3600, 3600]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mailto://ann:p%40ss!w0rd@mail.example", "535 for ann with p@ss!w0rd (p%40ss!w0rd)"),
        ("tgram://123456:AAbbCC/987", "404 at /bot123456:AAbbCC/sendMessage"),
        ("json://u:hunter22@10.0.0.9:99/hook?key=tok-1", "no route to 10.0.0.9/hook?key=tok-1"),
    ],
)
def test_a_reason_has_no_part_of_the_url(url: str, text: str) -> None:
    shown = channels.without_secrets(text, url)
    for secret in ("p@ss", "p%40ss", "AAbbCC", "123456", "hunter22", "10.0.0.9", "tok-1", "ann"):
        assert secret not in shown


def test_what_apprise_does_not_understand_is_said_without_it() -> None:
    wrong = channels.send("nosuchthing://user:verysecret@host", Message("a", "b"))
    assert wrong == "apprise does not understand this URL."


def test_urls_stand_between_blanks_or_commas_and_may_have_commas() -> None:
    code = (
        "import director.settings as s, sys; print(s.DIRECTOR_NOTIFY, s.DIRECTOR_NOTIFY_ON);"
        "assert 'apprise' not in sys.modules"
    )
    done = python("-c", code, DIRECTOR_NOTIFY=" json://a/,mailto://u:p@b?to=x@y,z@y  xml://c , ")
    assert not done.returncode
    assert done.stdout.startswith("['json://a/', 'mailto://u:p@b?to=x@y,z@y', 'xml://c'] ['group_")
