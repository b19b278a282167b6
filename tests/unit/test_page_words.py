"""What the pages say of tries."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from director.pages import text


@pytest.mark.parametrize(
    ("completed", "total", "tries", "said"),
    [
        (0, 5, {}, "0/5 done"),
        (5, 5, {}, "5/5 done"),
        (5, 5, {2: 1}, "4 done, 1 done on the second try"),
        (5, 5, {3: 1, 2: 2}, "2 done, 2 done on the second try, 1 done on the third try"),
        (1, 1, {10: 1}, "1 done on the 10th try"),
        (4, 5, {2: 1}, "4/5 done, 1 on the second try"),
    ],
)
def test_those_that_a_machine_failed_before_are_told_apart(
    completed: int, total: int, tries: Mapping[int, int], said: str
) -> None:
    assert text.result_label(completed, total, tries) == said


@pytest.mark.parametrize(
    ("tries", "elsewhere", "said"),
    [
        (1, False, "it is not tried again"),
        (1, "group", "it is not tried again; while it waits for a backend that is away it may go"
         " to the others of the group"),
        (3, False, "up to 3 tries, on its own backend only"),
        (3, "any", "up to 3 tries, also on any other backend"),
    ],
)  # fmt: skip
def test_what_a_group_does_when_one_fails(tries: int, elsewhere: bool | str, said: str) -> None:
    assert text.policy_text(tries, elsewhere) == said


def test_the_failures_after_which_it_is_tried_again_are_named() -> None:
    said = text.policy_text(2, False, ["out_of_memory", "cuda_fatal"])
    assert said.endswith("only, after these alone: out of memory, GPU failure")
