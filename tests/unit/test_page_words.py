"""Texts of the pages."""

from __future__ import annotations

from collections.abc import Mapping

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
