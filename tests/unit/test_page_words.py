"""Words of the pages, and what a workflow makes in the words of its nodes."""

import re
from html import unescape
from typing import Any

import pytest

from director.pages import text
from jobgroups.workflow import summary
from tests.harness.cases import cases


@pytest.mark.parametrize(
    ("completed", "total", "attempts", "label"),
    cases(__file__, "result_label_counts_retried_jobs_apart"),
)
def test_result_label_counts_retried_jobs_apart(
    completed: int, total: int, attempts: Any, label: str
) -> None:
    assert text.result_label(completed, total, dict(attempts)) == label


@pytest.mark.parametrize(
    ("sentence", "whole"), cases(__file__, "names_and_durations_are_not_broken_over_lines")
)
def test_names_and_durations_are_not_broken_over_lines(sentence: str, whole: list[str]) -> None:
    html = text.unbroken(sentence)
    assert re.findall(r'<span class="whole">(.*?)</span>', html) == whole
    assert unescape(re.sub(r"</?span[^>]*>", "", html)) == sentence


@pytest.mark.parametrize(
    ("attempts", "elsewhere", "retry_on", "label"), cases(__file__, "policy_text_describes_retries")
)
def test_policy_text_describes_retries(
    attempts: int, elsewhere: bool | str, retry_on: list[str], label: str
) -> None:
    assert text.policy_text(attempts, elsewhere, retry_on) == label
    # What may be paid twice is retried only after failures that the submission names.
    paid = text.policy_text(attempts, elsewhere, retry_on, is_paid=True)
    assert paid == (
        label
        if retry_on
        else "it is not retried after an execution: its partner nodes might be paid twice"
    )


@pytest.mark.parametrize(("variation", "label"), cases(__file__, "variation_text_is_short"))
def test_variation_text_is_short(variation: object, label: str) -> None:
    assert text.variation_text(variation, 16) == label


@pytest.mark.parametrize(("nodes", "found"), cases(__file__, "summary_has_what_the_workflow_makes"))
def test_summary_has_what_the_workflow_makes(nodes: dict[str, Any], found: dict[str, Any]) -> None:
    made = summary(
        {
            node_id: {"class_type": kind, "inputs": inputs}
            for node_id, (kind, inputs) in nodes.items()
        }
    )
    assert {name: made.get(name) for name in found} == found
    assert found or made == {}
