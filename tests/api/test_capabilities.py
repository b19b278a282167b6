"""The pure part of choosing: what a backend can."""

from __future__ import annotations

import pytest

from backends.capabilities import BackendCapabilities, gpu_slug, missing_capabilities

BIG = BackendCapabilities(
    tags=["flux", "Studio A"],
    devices=[{"name": "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"}],
    comfyui_version="0.3.64",
)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "nvidia-geforce-rtx-4090"),
        ("cuda:1 NVIDIA RTX 6000 Ada Generation : native", "nvidia-rtx-6000-ada-generation"),
        ("cuda:0 AMD Radeon RX 7900 XTX : native", "amd-radeon-rx-7900-xtx"),
        ("mps", "mps"),
        ("cpu", ""),
        ("", ""),
    ],
)
def test_a_devices_name_becomes_words(name: str, slug: str) -> None:
    assert gpu_slug(name) == slug


@pytest.mark.parametrize(
    "capability",
    [
        "flux",
        "Studio A",
        "gpu:nvidia-geforce-rtx-4090",
        "gpu:RTX-4090",
        "gpu:4090",
        "comfyui:0.3.64",
        "comfyui:0.3",
        "comfyui:0",
    ],
)
def test_a_backend_has_its_tags_its_gpu_and_its_version(capability: str) -> None:
    assert missing_capabilities(BIG, [capability]) == []


@pytest.mark.parametrize(
    "capability",
    [
        "Flux",
        "studio a",
        "gpu:409",
        "gpu:090",
        "gpu:",
        "gpu:cpu",
        "comfyui:0.3.6",
        "comfyui:",
        "comfyui:1",
        "vram:24",
        "",
    ],
)
def test_a_backend_lacks_what_is_only_like_it(capability: str) -> None:
    assert missing_capabilities(BIG, [capability]) == [capability]


def test_of_a_backend_of_which_nothing_is_known_only_the_tags_count() -> None:
    unknown = BackendCapabilities(tags=["gpu:4090"], devices=[], comfyui_version="")
    assert missing_capabilities(unknown, ["gpu:4090", "gpu:3090", "comfyui:0.3"]) == [
        "gpu:3090",
        "comfyui:0.3",
    ]


def test_what_lacks_is_told_in_the_order_asked() -> None:
    assert missing_capabilities(BIG, ["z", "flux", "a"]) == ["z", "a"]
