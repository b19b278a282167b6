import json
import struct
import zlib
from typing import Any

import pytest

from tests.api.conftest import Api, api, error_of  # noqa: F401 api is a fixture
from tests.harness.graphs import png

GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 42, "steps": 20}}}
PATH = "/api/workflow-from-png"


def _compressed_bomb() -> bytes:
    """Return a PNG with a text chunk of a few kilobytes that unpacks to 200 MiB."""
    plain = png()
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    data = b"prompt\0\0" + packed
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return plain[:33] + chunk + plain[33:]


@pytest.fixture
def ask(api: Api) -> Any:  # noqa: F811
    def asked(content: bytes, content_type: str = "image/png") -> Any:
        return api.ask("POST", PATH, content, content_type=content_type)

    return asked


def test_the_prompt_comes_out_of_a_picture(ask: Any) -> None:
    answer = ask(png(prompt=json.dumps(GRAPH), workflow='{"nodes": []}'))
    assert answer.status_code == 200
    assert answer.json() == {"workflow_json": GRAPH}


def test_what_comfyui_notes_while_it_runs_is_dropped(ask: Any) -> None:
    noted = {"3": {**GRAPH["3"], "is_changed": [float("nan")]}}
    assert ask(png(prompt=json.dumps(noted))).json() == {"workflow_json": GRAPH}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (png(), "no workflow in it"),
        (png(workflow='{"nodes": []}'), "cannot be used"),
        (png(prompt='{"nodes": [], "links": []}'), "cannot be used"),
        (png(prompt="no json"), "not JSON"),
        (png(prompt="[" * 100_000), "not JSON"),
        (png(prompt='{"3": {"class_type": "X", "inputs": {"a": NaN}}}'), "cannot be used"),
        (b"", "not a PNG"),
        (b"GIF89a" + bytes(50), "not a PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a PNG"),
    ],
    ids=["none", "editor only", "editor", "text", "deep", "nan", "empty", "gif", "broken"],
)
def test_what_has_no_workflow_is_told_in_words(ask: Any, content: bytes, says: str) -> None:
    assert says in error_of(ask(content), 400, "no_workflow")["detail"]


def test_compressed_text_is_not_unpacked_without_a_bound(ask: Any) -> None:
    error_of(ask(_compressed_bomb()), 400, "no_workflow")


def test_a_body_that_is_too_long_or_no_png_by_its_own_word_is_refused(
    ask: Any, settings: Any
) -> None:
    error_of(ask(png(), "application/json"), 415, "unsupported_media_type")
    settings.DIRECTOR_MAX_BODY_BYTES = 1_000
    error_of(ask(bytes(1_001)), 413, "payload_too_large")
