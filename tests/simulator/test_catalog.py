"""The node classes on offer: ComfyUI's facts, none of its prose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.simulator.calls import call_of
from tests.simulator.artist import Artist


def keys_with_prose(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (key for key in ("tooltip", "output_tooltips") if key in value)
        if value.get("description"):
            yield "description"
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for child in children:
            yield from keys_with_prose(child)


async def test_listing_has_every_class_with_its_inputs_and_no_prose(me: Artist) -> None:
    listing = await me.get("/object_info")
    assert len(listing) == 389
    assert list(keys_with_prose(listing)) == []
    assert listing["KSampler"]["description"] == ""
    assert listing["KSampler"]["input"]["required"]["steps"] == ["INT", {"default": 20, "min": 1, "max": 10000}]


async def test_every_class_on_the_list_can_be_called(me: Artist) -> None:
    names = list(await me.get("/object_info"))
    assert all("." in call_of(name).function for name in names)
    assert call_of("KSamplerAdvanced").refused(["denoise"]) is None
    assert call_of("KSamplerAdvanced").refused(["denoise", "extra"]) == "extra"
    assert call_of("WebcamCapture").refused(["anything"]) is None
