"""A web page or half a picture is no copy of a job's file; each good file is one, however odd."""

import io
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from backends.simulator.media import encode_webm
from jobgroups.domain.bodies import Body, NoCopy

PAGE = b"<!doctype html><html><head><title>Sign in</title></head></html>"


def judge(name: str, content: bytes, *, size: int = 65_536) -> Body:
    body = Body(name)
    for first in range(0, len(content), size):
        body.add(content[first : first + size])
    body.end()
    return body


def picture(kind: str, *, frames: int = 1, **options: Any) -> bytes:
    buffer = io.BytesIO()
    first, *others = [Image.effect_noise((64, 48), 90 + n).convert("RGB") for n in range(frames)]
    more = {"save_all": True, "append_images": others} if others else {}
    first.save(buffer, kind, **more, **options)
    return buffer.getvalue()


def _exif() -> bytes:
    """A JPEG as its thumbnail has an end of its own."""
    return b"Exif\0\0" + picture("JPEG")


def _text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "IEND" * 9)
    return text


PICTURES = {
    "png": ("a.png", picture("PNG", pnginfo=_text())),
    "apng": ("a.png", picture("PNG", frames=3)),
    "jpeg": ("a.jpg", picture("JPEG", exif=_exif(), comment=b"\xff\xd9")),
    "progressive": ("A.JPEG", picture("JPEG", progressive=True, quality=95)),
    "webp": ("a.webp", picture("WEBP")),
    "animated webp": ("a.webp", picture("WEBP", frames=3)),
}


@pytest.mark.parametrize(("name", "content"), PICTURES.values(), ids=PICTURES.keys())
@pytest.mark.parametrize("size", [1, 7, 65_536])
def test_whole_picture_is_a_copy_and_a_truncated_one_is_none(
    name: str, content: bytes, size: int
) -> None:
    for whole in (content, content + bytes(4_000), content + b"\xff\xd8 a later part"):
        body = judge(name, whole, size=size)
        assert (body.is_whole, body.warning, body.size) == (True, "", len(whole))
    for length in (0, 1, 3, 7, 11, 12, 40, len(content) // 2, len(content) - 3, len(content) - 1):
        with pytest.raises(NoCopy, match=f"truncated: its end is missing after {length} bytes"):
            judge(name, content[:length], size=size)


@pytest.mark.parametrize("size", [1, 65_536])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", PAGE, "a web page, not image/png"),
        ("a.mp4", b"\xef\xbb\xbf\r\n <HTML lang=en>", "a web page, not video/mp4"),
        ("a.glb", b"<?xml version='1'?><!-- <svg> --><Error/>", "a web page"),
        ("a.flac", b"<!-- " + bytes(2_000), "a web page"),
        ("a.zip", b"<", "a web page"),
        ("a.webp", b' {"error": "no such file"}', "JSON, not image/webp"),
        ("a.jpg", b"[]", "JSON"),
    ],
)
def test_page_or_json_is_no_copy_of_a_media_file(
    name: str, content: bytes, said: str, size: int
) -> None:
    with pytest.raises(NoCopy, match=said):
        judge(name, content, size=size)


def test_page_is_known_by_its_first_chunk() -> None:
    with pytest.raises(NoCopy):
        Body("a.png").add(PAGE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gif", picture("GIF", frames=3)),
        ("a.avif", picture("AVIF")),
        ("a.bmp", picture("BMP")),
        ("a.tiff", picture("TIFF")),
        ("a.webm", encode_webm([Image.new("RGB", (32, 32))], 2)),
        ("a.mkv", encode_webm([Image.new("RGB", (32, 32))], 2)),
        ("a.mp4", b"\0\0\0\x20ftypisom"),
        ("a.mov", b"\0\0\0\x08wide\0\0\0\x08mdat"),
        ("a.m4a", b"\0\0\0\x20ftypM4A "),
        ("a.mp3", b"\xff\xfb\x90\x00"),
        ("a.mp3", b"ID3\x04"),
        ("a.wav", b"RIFF\xff\xff\xff\xffWAVEfmt "),
        ("a.opus", b"OggS"),
        ("a.glb", b"glTF\2\0\0\0"),
        # What a custom node writes under its own names, and texts, may be anything.
        ("a.txt", b""),
        ("a.txt", PAGE),
        ("a.json", b"{}"),
        ("a.html", PAGE),
        ("a.svg", b"<svg/>"),
        ("a.latent", b"{"),
        ("a.exr", b""),
        ("no suffix", PAGE),
    ],
)
def test_good_file_is_a_copy_without_a_warning(name: str, content: bytes) -> None:
    assert judge(name, content).warning == ""


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", picture("JPEG"), "Its content is image/jpeg, not image/png as its name says."),
        (
            "a.mp4",
            picture("GIF", frames=2),
            "Its content is image/gif, not video/mp4 as its name says.",
        ),
        (
            "a.png",
            b"<?xml version='1'?><!DOCTYPE svg><svg/>",
            "Its content is unknown, not image/png",
        ),
        ("a.png", b"upstream timed out", "Its content is unknown"),
        ("a.glb", b'{"asset": {}}', "Its content is unknown"),
    ],
)
def test_file_of_another_kind_is_a_copy_with_a_warning(
    name: str, content: bytes, said: str
) -> None:
    assert judge(name, content).warning.startswith(said)


def test_end_of_a_picture_of_another_kind_counts_too() -> None:
    with pytest.raises(NoCopy, match="truncated"):
        judge("a.png", picture("JPEG")[:-2])


def test_hostile_jpeg_takes_no_time_beyond_its_segments() -> None:
    body = judge("a.jpg", b"\xff\xd8\xff" + b"\xff\xe0\0\x02" * 100_000 + b"\xff\xd9")
    assert body._segments <= 10_001
