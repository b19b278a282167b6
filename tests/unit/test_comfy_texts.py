"""Texts of a backend in one line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.comfyui.answers import system_stats
from backends.comfyui.errors import PromptRefused, ResponseLost
from backends.comfyui.texts import one_line


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_becomes_one_line_that_can_be_stored_and_shown(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 500
    assert len(line.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in line)
    line.encode()


def test_ordinary_text_stays_as_it_is() -> None:
    assert one_line("gpu-2: não, 日本 ✓ (1011).") == "gpu-2: não, 日本 ✓ (1011)."


def test_long_text_is_cut() -> None:
    assert one_line("x" * 10_000) == "x" * 499 + "…"


def test_every_error_of_a_backend_is_one_line_and_a_refusal_stays_comfyuis_text() -> None:
    assert str(ResponseLost("a\nb\x1b[0m")) == "a b [0m"
    assert PromptRefused("a\nb").detail == "a\nb"


def test_version_and_devices_of_a_backend_are_one_line() -> None:
    body = rb'{"system": {"comfyui_version": "0.3\u001b[2J"}, "devices": [{"name": "RTX\r\n\u001bc"}]}'
    stats = system_stats(body)
    assert (stats.version, stats.devices[0].name) == ("0.3 [2J", "RTX c")
