import re
from collections.abc import Mapping
from html import unescape

import pytest

from director.pages import text


@pytest.mark.parametrize(
    ("completed", "total", "attempts", "label"),
    [
        (0, 5, {}, "0/5 completed"),
        (5, 5, {2: 1}, "4 completed, 1 completed on the second attempt"),
        (5, 5, {3: 1, 2: 2}, "2 completed, 2 completed on the second attempt, 1 completed on the third attempt"),
        (1, 1, {10: 1}, "1 completed on the 10th attempt"),
        (4, 5, {2: 1}, "4/5 completed, 1 on the second attempt"),
    ],
)  # fmt: skip
def test_result_label_counts_retried_jobs_apart(
    completed: int, total: int, attempts: Mapping[int, int], label: str
) -> None:
    assert text.result_label(completed, total, attempts) == label


@pytest.mark.parametrize(
    ("sentence", "whole"),
    [
        ("In the queue of gpu-3. Done in about 16 s.", ["gpu-3", "16 s"]),
        ("a-1 <b> & rack-2-gpu-1; 2 h 5 min", ["a-1", "rack-2-gpu-1", "2 h", "5 min"]),
        (f"At 127.0.0.1-8188, not at {'long-' * 12}name.", ["127.0.0.1-8188"]),
    ],
)  # fmt: skip
def test_names_and_durations_are_not_broken_over_lines(sentence: str, whole: list[str]) -> None:
    html = text.unbroken(sentence)
    assert re.findall(r'<span class="whole">(.*?)</span>', html) == whole
    assert unescape(re.sub(r"</?span[^>]*>", "", html)) == sentence


@pytest.mark.parametrize(
    ("attempts", "elsewhere", "retry_on", "label"),
    [
        (1, False, [], "it is not retried"),
        (1, "group", [], "it is not retried; while its backend is offline it may move to the other"
         " backends of the group"),
        (3, False, [], "up to 3 attempts, on its own backend only"),
        (3, "any", [], "up to 3 attempts, also on any other backend"),
        (2, False, ["out_of_memory", "cuda_fatal"],
         "up to 2 attempts, on its own backend only, only after: out of memory, GPU failure"),
    ],
)  # fmt: skip
def test_policy_text_describes_retries(attempts: int, elsewhere: bool | str, retry_on: list[str], label: str) -> None:
    assert text.policy_text(attempts, elsewhere, retry_on) == label
    # What may be paid twice is retried only after failures that the submission names.
    paid = text.policy_text(attempts, elsewhere, retry_on, is_paid=True)
    assert paid == (
        label if retry_on else "it is not retried after an execution: its partner nodes might be paid twice"
    )
