import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.comfyui.answers import system_stats
from backends.comfyui.errors import PromptRefused, ProtocolError, ResponseLost
from backends.comfyui.texts import one_line
from backends.comfyui.versions import (
    Limitation,
    keeps_prompt_id,
    limitations,
    supports_cancel,
    supports_jobs,
    supports_targeted_interrupt,
)
from backends.comfyui.wire_json import WireDecoder

anything: WireDecoder[Any] = WireDecoder(object)

texts = st.text(st.sampled_from('a"\\: ,[]{}NaN-Infinity\n\0é\ud800'), max_size=12) | st.sampled_from(
    [": NaN,", '", NaN]', '\\", NaN, "', "Infinity", "[NaN]", '\\\\": NaN,']
)
written_by_python = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def cleaned(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case str():
            return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        case list():
            return [cleaned(item) for item in value]
        case dict():
            return {cleaned(key): cleaned(item) for key, item in value.items()}
        case _:
            return value


@given(written_by_python)
def test_whatever_python_writes_is_read_with_null_for_nan(value: Any) -> None:
    assert anything.decode(json.dumps(value)) == cleaned(value)
    assert anything.decode(json.dumps(value).encode()) == cleaned(value)


def test_nan_inside_strings_stays() -> None:
    text = r'{"a": NaN, "b": "x: NaN, \" [NaN] \\", "c": [NaN, -Infinity], "d": "\\\": NaN,"}'
    assert anything.decode(text) == {"a": None, "b": 'x: NaN, " [NaN] \\', "c": [None, None], "d": '\\": NaN,'}


@pytest.mark.parametrize("text", [b"", b"{", b"<html>", b"\xff", b'"\xff"', b"[NaN", b"NaNa"])
def test_what_is_not_json_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        anything.decode(text)


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_becomes_one_line_that_can_be_stored_and_shown(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 500
    assert len(line.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in line)
    line.encode()


def test_ordinary_text_stays_as_it_is_and_a_long_one_is_cut() -> None:
    assert one_line("gpu-2: não, 日本 ✓ (1011).") == "gpu-2: não, 日本 ✓ (1011)."
    assert one_line("x" * 10_000) == "x" * 499 + "…"


def test_errors_and_facts_of_a_backend_are_one_line_and_a_refusal_stays_comfyuis_text() -> None:
    assert str(ResponseLost("a\nb\x1b[0m")) == "a b [0m"
    assert PromptRefused("a\nb").detail == "a\nb"
    stats = system_stats(rb'{"system": {"comfyui_version": "0.3\u001b[2J"}, "devices": [{"name": "RTX\r\n\u001bc"}]}')
    assert (stats.version, stats.devices[0].name) == ("0.3 [2J", "RTX c")


TARGETED = "0.3.57 v0.3.57 0.3.100 0.4 0.4.0rc1 1.0.0 0.3.57.post1 0.3.57-3-gabc 0.3.58-dev"
OLD = "unknown 0.3.56 0.3.9 0.3 0.2.99 0.3.57rc1 0.3.57-dev 0.3.57.dev4 0.3.57-alpha.1 0 x0.3.64"


@pytest.mark.parametrize("version", TARGETED.split())
def test_versions_that_stop_one_prompt(version: str) -> None:
    assert supports_targeted_interrupt(version)


@pytest.mark.parametrize("version", [None, "", "0.3.56-99-gabc", *OLD.split()])
def test_versions_that_would_stop_whatever_runs(version: str | None) -> None:
    assert not supports_targeted_interrupt(version)


def test_jobs_and_their_cancel_need_a_readable_version() -> None:
    assert [supports_jobs(one) for one in ("0.5.9", "0.6.0", "1.0", None, "x")] == [False, True, True, False, False]
    assert [supports_cancel(one) for one in ("0.25.1", "v0.26.0", "0.33.0", None)] == [False, True, True, False]


def test_only_a_readable_old_version_is_known_to_choose_its_own_prompt_ids() -> None:
    assert not any(map(keeps_prompt_id, ("0.3.44", "0.2.9")))
    assert all(map(keeps_prompt_id, ("0.3.45", "v1.0.0", None, "x")))


def test_limitations_of_versions() -> None:
    jobs, stop, previews, steps = Limitation
    found = {"": [], "0.3.40": [jobs], "0.3.50": [stop, previews], "strange": [stop, previews]}
    found |= {"0.3.64": [previews, steps], "0.5.0": [steps], "0.26.0": [], "0.33.0": []}
    assert {version: limitations(version) for version in found} == found
