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
def test_gpu_slug_of_a_device_name(name: str, slug: str) -> None:
    assert gpu_slug(name) == slug


@pytest.mark.parametrize(
    ("required", "missing"),
    [
        (["flux", "Studio A", "gpu:nvidia-geforce-rtx-4090", "gpu:RTX-4090", "gpu:4090"], []),
        (["comfyui:0.3.64", "comfyui:0.3", "comfyui:0"], []),
        (["Flux", "studio a", "vram:24", ""], ["Flux", "studio a", "vram:24", ""]),
        (["gpu:409", "gpu:090", "gpu:", "gpu:cpu"], ["gpu:409", "gpu:090", "gpu:", "gpu:cpu"]),
        (["comfyui:0.3.6", "comfyui:", "comfyui:1"], ["comfyui:0.3.6", "comfyui:", "comfyui:1"]),
        (["z", "flux", "a"], ["z", "a"]),
    ],
)
def test_missing_capabilities_in_the_order_given(required: list[str], missing: list[str]) -> None:
    assert missing_capabilities(BIG, required) == missing


def test_unknown_backend_has_its_tags_alone() -> None:
    unknown = BackendCapabilities(tags=["gpu:4090"], devices=[], comfyui_version="")
    required = ["gpu:4090", "gpu:3090", "comfyui:0.3"]
    assert missing_capabilities(unknown, required) == ["gpu:3090", "comfyui:0.3"]
