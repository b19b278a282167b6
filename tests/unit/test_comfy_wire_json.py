from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.comfyui.errors import ProtocolError
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
    """What a value becomes on the way, told with plain Python."""
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
