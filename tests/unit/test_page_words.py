"""Words of the pages, and what a workflow makes in the words of its nodes."""

import re
from html import unescape
from typing import Any

import pytest

from director.pages import text
from jobgroups.workflow import summary


@pytest.mark.parametrize(
    ("completed", "total", "attempts", "label"),
    [
        (0, 5, [], "0/5 completed"),
        (5, 5, [[2, 1]], "4 completed, 1 completed on the second attempt"),
        (
            5,
            5,
            [[3, 1], [2, 2]],
            "2 completed, 2 completed on the second attempt, 1 completed on the third attempt",
        ),
        (1, 1, [[10, 1]], "1 completed on the 10th attempt"),
        (4, 5, [[2, 1]], "4/5 completed, 1 on the second attempt"),
    ],
)
def test_result_label_counts_retried_jobs_apart(
    completed: int, total: int, attempts: Any, label: str
) -> None:
    assert text.result_label(completed, total, dict(attempts)) == label


@pytest.mark.parametrize(
    ("sentence", "whole"),
    [
        ("In the queue of gpu-3. Done in about 16 s.", ["gpu-3", "16 s"]),
        ("a-1 <b> & rack-2-gpu-1; 2 h 5 min", ["a-1", "rack-2-gpu-1", "2 h", "5 min"]),
        (
            "At 127.0.0.1-8188, not at long-long-long-long-long-long-long-long-long-long-long-long-name.",
            ["127.0.0.1-8188"],
        ),
    ],
)
def test_names_and_durations_are_not_broken_over_lines(sentence: str, whole: list[str]) -> None:
    html = text.unbroken(sentence)
    assert re.findall(r'<span class="whole">(.*?)</span>', html) == whole
    assert unescape(re.sub(r"</?span[^>]*>", "", html)) == sentence


@pytest.mark.parametrize(
    ("attempts", "elsewhere", "retry_on", "label"),
    [
        (1, False, [], "it is not retried"),
        (
            1,
            "group",
            [],
            "it is not retried; while its backend is offline it may move to the other backends of the group",
        ),
        (3, False, [], "up to 3 attempts, on its own backend only"),
        (3, "any", [], "up to 3 attempts, also on any other backend"),
        (
            2,
            False,
            ["out_of_memory", "cuda_fatal"],
            "up to 2 attempts, on its own backend only, only after: out of memory, GPU failure",
        ),
    ],
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


@pytest.mark.parametrize(
    ("variation", "label"),
    [
        (None, ""),
        ({"3.cfg": 7, "4.ckpt_name": "b.safetensors"}, "cfg 7 · ckpt b.safetensors"),
        ({"3": {"cfg": 7}, "5.cfg": None}, "3.cfg 7 · 5.cfg null"),
        ({"text": "a castle\nat dawn in the mist"}, "text a castle at daw…"),
        ({"4.ckpt_name": "models/xxxxxxxxxxxxxxxxxxxx_v1.safetensors"}, "ckpt …_v1.safetensors"),
        ({"image": {"__type": "asset", "info": {}}}, 'image {"__type": "ass…'),
    ],
)
def test_variation_text_is_short(variation: object, label: str) -> None:
    assert text.variation_text(variation, 16) == label


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        (
            {
                "3": [
                    "KSampler",
                    {
                        "seed": 1,
                        "steps": 20,
                        "cfg": 7.0,
                        "sampler_name": "euler",
                        "positive": ["6", 0],
                        "negative": ["7", 0],
                    },
                ],
                "6": ["CLIPTextEncode", {"text": "a lighthouse"}],
                "7": ["CLIPTextEncode", {"text": "blurry"}],
            },
            {"prompt": "a lighthouse", "negative": "blurry", "steps": 20, "cfg": 7.0},
        ),
        (
            {
                "1": ["KSampler", {"positive": ["2", 0], "negative": ["2", 1]}],
                "2": [
                    "ControlNetApplyAdvanced",
                    {"positive": ["6", 0], "negative": ["7", 0], "strength": 1.0},
                ],
                "6": ["CLIPTextEncode", {"text": "a lighthouse"}],
                "7": ["CLIPTextEncode", {"text": "blurry"}],
            },
            {"prompt": "a lighthouse", "negative": "blurry"},
        ),
        (
            {
                "1": ["SamplerCustomAdvanced", {"guider": ["2", 0]}],
                "2": ["BasicGuider", {"conditioning": ["3", 0]}],
                "3": ["FluxGuidance", {"guidance": 3.5, "conditioning": ["4", 0]}],
                "4": ["CLIPTextEncode", {"text": ["5", 0]}],
                "5": ["PrimitiveString", {"value": "a castle"}],
            },
            {"prompt": "a castle", "cfg": 3.5},
        ),
        ({"1": ["TextEncodeX", {"prompt": "a cat"}]}, {"prompt": "a cat"}),
        (
            {
                "1": ["ImageScale", {"width": 64, "height": 64}],
                "2": ["EmptyLatentImage", {"width": 512, "height": 768}],
                "3": ["UNETLoader", {"unet_name": "flux\\dev_1.0.safetensors"}],
                "4": ["SaveImage", {"filename_prefix": "shots/a"}],
            },
            {"width": 512, "height": 768, "model": "dev_1.0", "file": "shots/a"},
        ),
        (
            {
                "1": ["X", {"positive": ["2", 0]}],
                "2": ["Y", {"positive": ["1", 0], "text": ["9", 0], "steps": [1], "cfg": {}}],
            },
            {},
        ),
        ({}, {}),
    ],
)
def test_summary_has_what_the_workflow_makes(nodes: dict[str, Any], found: dict[str, Any]) -> None:
    made = summary(
        {
            node_id: {"class_type": kind, "inputs": inputs}
            for node_id, (kind, inputs) in nodes.items()
        }
    )
    assert {name: made.get(name) for name in found} == found
    assert found or made == {}
