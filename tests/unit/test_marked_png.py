"""A PNG is known as its job's only if no byte of another picture is in it."""

import io
import json
import random
import zlib
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from jobgroups.domain.marked_png import MarkedPng


def marked(
    job: str, *, seed: int = 0, group: str = "jg", side: int = 200, after: str = "", **texts: Any
) -> bytes:
    """Return a picture as SaveImage writes it: its pixels are in several pieces."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    mark = texts.pop("director", {"group": group, "job": job})
    for key, text in ({"prompt": {"seed": seed}} | texts | {"director": mark}).items():
        info.add_text(key, text if isinstance(text, str) else json.dumps(text))
    if after:
        info.add_text("comment", after)
    pixels = random.Random(seed).randbytes(3 * side * side)
    Image.frombytes("RGB", (side, side), pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def is_of(content: bytes, job: str, step: int | None = None) -> bool:
    png, step = MarkedPng(), step or len(content) or 1
    for at in range(0, len(content), step):
        png.update(content[at : at + step])
    return png.is_of("jg", job)


@pytest.mark.parametrize("step", [1, 7, 1000, 2**16, None])
def test_picture_is_known_in_parts_of_any_size(step: int | None) -> None:
    content = marked("j_1", side=20 if step == 1 else 200)
    assert is_of(content, "j_1", step)
    assert not is_of(content, "j_2", step)


@pytest.mark.parametrize("text", ["short", "x" * 30_000], ids=["short", "of several pages"])
def test_parts_of_two_pictures_are_never_known_as_the_first(text: str) -> None:
    """At each page that the backend may have read when another prompt wrote to the file."""
    first, second = (
        marked(job, seed=seed, workflow=text) for seed, job in enumerate(("j_1", "j_2"))
    )
    assert abs(len(first) - len(second)) < 1000
    for page in range(0, len(first), 512):
        assert not is_of(first[:page] + second[page:], "j_1")


def _without_end(content: bytes) -> bytes:
    return content[:-12]


def _with_a_changed_byte(content: bytes) -> bytes:
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


def _with_the_mark_behind_the_pixels(content: bytes) -> bytes:
    data = b'tEXtdirector\0{"group": "jg", "job": "j_1"}'
    piece = (len(data) - 4).to_bytes(4) + data + zlib.crc32(data).to_bytes(4)
    return marked("j_2")[:-12] + piece + content[-12:]


@pytest.mark.parametrize(
    "content",
    [
        _without_end(marked("j_1")),
        marked("j_1")[:-1],
        marked("j_1") + b"\0",
        marked("j_1") + marked("j_1"),
        _with_a_changed_byte(marked("j_1")),
        _with_the_mark_behind_the_pixels(marked("j_1")),
        marked("j_1")[8:],
        marked("j_1", group="another"),
        marked("j_1", after="a text between mark and pixels"),
        marked("j_1", after="ü€ of another kind"),
        marked("j_1", director="[" * 100_000),
        marked("j_1", director="no JSON"),
        b"",
        b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIDAT",
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_picture_of_doubtful_origin_is_not_known(content: bytes) -> None:
    for step in (None, 999):
        assert not is_of(content, "j_1", step)
