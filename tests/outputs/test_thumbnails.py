"""``…/outputs/{n}?w=``: thumbnails, made once, and safe against crafted files."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from jobgroups.api.views.outputs import thumbnails
from jobgroups.outputs import resize
from jobgroups.outputs.disk_cache import DiskCache
from jobgroups.outputs.resize import NotAnImage, thumbnail
from tests.api.conftest import error_of, wrong_fields
from tests.harness import factories
from tests.harness.farm import in_thread
from tests.outputs.conftest import Gallery, file, picture

db = pytest.mark.django_db(transaction=True)


def _size(webp: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        return image.size


def _png(width: int, height: int, rows: int = 0) -> bytes:
    """Return a PNG of black pixels that claims a size and has so many rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packing = zlib.compressobj(1)
    row = bytes(1 + 3 * width) if rows else b""
    packed = b"".join(packing.compress(row) for _ in range(rows)) + packing.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@db
async def test_thumbnail_is_a_small_webp(gallery: Gallery) -> None:
    url = await gallery.one("a.png", picture(size=(1000, 500)))
    answer = await gallery.get(f"{url}?w=320")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/webp"
    assert _size(answer.content) == (320, 160)
    again = await gallery.get(f"{url}?w=320", If_None_Match=f"W/{answer.headers['ETag']}")
    assert (again.status_code, again.content) == (304, b"")


@db
async def test_other_widths_are_refused(gallery: Gallery) -> None:
    url = await gallery.one("a.png", picture())
    assert "160, 320" in wrong_fields(await gallery.get(f"{url}?w=321"))["w"]
    error_of(await gallery.get(f"{url}?w=320&h=5"), 400, "invalid_request")


@db
async def test_thumbnail_is_made_once_for_concurrent_requests(gallery: Gallery) -> None:
    url = await gallery.one("a.png", picture())
    answers = [gallery.get(f"{url}?w=160") for _ in range(5)]
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one) for one in answers]
    assert {task.result().status_code for task in asked} == {200}
    (gallery.folder / "a.png").unlink()
    kept = await gallery.get(f"{url}?w=160")
    assert kept.status_code == 200
    assert kept.content == asked[0].result().content
    error_of(await gallery.get(f"{url}?w=320"), 410, "output_gone")


@db
async def test_silent_backend_does_not_delay_thumbnails_of_others(gallery: Gallery) -> None:
    url = await gallery.one("a.png", picture())
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        address = f"http://localhost:{silent.getsockname()[1]}"
        await in_thread(factories.backend)("gpu-9", url=address)
        mute = Gallery(gallery.sim, gallery.folder, backend_id="gpu-9")
        group, jobs = await mute.done({"images": [file(f"{n}.png") for n in range(12)]})
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(mute.get(f"/api/job-groups/{group}/jobs/{jobs[0]}/outputs/{n}?w=160"))
                for n in range(12)
            ]
            await asyncio.sleep(0.5)
            async with asyncio.timeout(5):
                assert (await gallery.get(f"{url}?w=160")).status_code == 200
            assert not [one for one in asked if one.done()]
            for one in asked:
                one.cancel()


@db
async def test_slow_original_times_out(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobgroups.outputs.thumbnails._DOWNLOAD_TIMEOUT", 0.4)

    gone = asyncio.Event()

    async def dribble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        gone.set()

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
        address = f"http://localhost:{server.sockets[0].getsockname()[1]}"
        await in_thread(factories.backend)("gpu-9", url=address)
        slow = Gallery(gallery.sim, gallery.folder, backend_id="gpu-9")
        answer = await slow.get(f"{await slow.one('a.png')}?w=160")
        await gone.wait()
    body = error_of(answer, 502, "backend_unreachable")
    assert "within 0.4 s" in body["detail"]


@db
async def test_reused_name_does_not_show_the_old_thumbnail(gallery: Gallery) -> None:
    first = await gallery.get(f"{await gallery.one('a.png', picture(color='red'))}?w=160")
    second = await gallery.get(f"{await gallery.one('a.png', picture(color='blue'))}?w=160")
    assert first.content != second.content


@db
@pytest.mark.parametrize(
    "content",
    [b"<svg/>", b"", _png(100_000, 100_000), _png(9_000, 9_000), picture()[:200], b"%!PS\n"],
    ids=["svg", "empty", "bomb", "too many pixels", "cut off", "postscript"],
)
async def test_undecodable_file_has_no_thumbnail(gallery: Gallery, content: bytes) -> None:
    url = await gallery.one("a.png", content)
    error_of(await gallery.get(f"{url}?w=320"), 404, "no_thumbnail")


@db
async def test_limit_of_the_original_is_not_that_of_the_proxy(
    gallery: Gallery, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DIRECTOR_PROXY_MAX_BYTES = 100
    url = await gallery.one("a.png", picture(size=(3_000, 300)))
    assert _size((await gallery.get(f"{url}?w=2560")).content) == (2560, 256)
    thumbnails.cache_clear()
    monkeypatch.setattr("jobgroups.api.views.outputs.MAX_SOURCE_BYTES", 100)
    error_of(await gallery.get(f"{url}?w=320"), 404, "no_thumbnail")


@db
async def test_long_original_is_held_on_disk(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    rolled: list[int] = []

    class Watched(tempfile.SpooledTemporaryFile[bytes]):
        def rollover(self) -> None:
            rolled.append(self.tell())
            super().rollover()

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", Watched)
    noise = Image.effect_noise((5_000, 5_000), 90)  # 20 MB and more, whatever packs it
    buffer = io.BytesIO()
    noise.save(buffer, "PNG", compress_level=1)
    url = await gallery.one("a.png", buffer.getvalue())
    assert _size((await gallery.get(f"{url}?w=160")).content) == (160, 160)
    assert len(rolled) == 1


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(NotAnImage, match="too many pixels"):
        thumbnail(_png(9_000, 9_000), 320)


@pytest.mark.parametrize("size", [(1, 2**26), (2**26, 1), (2**16 + 1, 2)])
def test_image_with_a_long_side_is_refused(size: tuple[int, int]) -> None:
    """Pillow took 2 GB for one that is 1 pixel wide."""
    with pytest.raises(NotAnImage, match="sides has more than 65536 pixels"):
        thumbnail(_png(*size), 320)


def test_largest_webp_has_fewer_pixels_since_its_decoder_keeps_copies() -> None:
    buffer = io.BytesIO()
    Image.new("L", (4_097, 4_096)).save(buffer, "WEBP", method=0)
    with pytest.raises(NotAnImage, match="too many pixels"):
        thumbnail(buffer.getvalue(), 320)


def test_thumbnail_takes_the_memory_of_one_decoded_image(tmp_path: Path) -> None:
    """8192 x 8192 pixels are 256 MiB, and took 1 GB."""
    (tmp_path / "large.png").write_bytes(_png(8192, 8192, rows=8192))
    program = (
        "import io, re, sys\n"
        "from PIL import Image\n"
        "from jobgroups.outputs.resize import thumbnail\n"
        "def peak():\n"
        "    status = open('/proc/self/status').read()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024\n"
        "small = io.BytesIO()\n"
        "Image.new('RGB', (64, 64)).save(small, 'PNG')\n"
        "thumbnail(small.getvalue(), 160)\n"
        "before = peak()\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    thumbnail(file, 320)\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "large.png")]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=60)
    megabytes = int(ended.stdout)
    assert 200 < megabytes < 320


def test_large_pictures_are_drawn_one_at_a_time_and_delay_no_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = resize._upright
    large = picture(size=(2_000, 2_000))
    monkeypatch.setattr(resize, "_SMALL_PIXELS", 2**20)
    under_way: list[int] = []
    most: list[int] = []
    began, may_go = threading.Event(), threading.Event()

    def noted(image: Image.Image, width: int) -> Image.Image:
        if image.width < 2_000:
            return plain(image, width)
        under_way.append(1)
        most.append(len(under_way))
        began.set()
        may_go.wait(20)
        under_way.pop()
        return plain(image, width)

    monkeypatch.setattr(resize, "_upright", noted)
    with ThreadPoolExecutor(4) as threads:
        drawn = [threads.submit(thumbnail, large, 160) for _ in range(3)]
        began.wait(20)
        small = threads.submit(thumbnail, picture(size=(64, 32)), 160).result(20)
        may_go.set()
        assert {_size(one.result(20)) for one in drawn} == {(160, 160)}
    assert _size(small) == (64, 32)
    assert most == [1, 1, 1]


def test_small_image_is_not_enlarged_and_a_tall_one_is_bounded() -> None:
    assert _size(thumbnail(picture(size=(64, 32)), 320)) == (64, 32)
    assert _size(thumbnail(picture(size=(100, 4_000)), 320)) == (24, 960)


def test_transparency_is_kept_and_orientation_is_applied() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 32), (255, 0, 0, 0)).save(buffer, format="PNG")
    with Image.open(io.BytesIO(thumbnail(buffer.getvalue(), 320))) as shown:
        assert shown.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]
    buffer, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (64, 32)).save(buffer, format="JPEG", exif=turned)
    assert _size(thumbnail(buffer.getvalue(), 320)) == (32, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_corrected(orientation: int) -> None:
    held = Image.new("RGB", (64, 32), "blue")
    held.paste("red", (0, 0, 16, 8))
    buffer, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = orientation
    held.save(buffer, format="PNG", exif=turned)
    held.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(held)
    with Image.open(io.BytesIO(thumbnail(buffer.getvalue(), 320))) as shown:
        assert shown.size == upright.size
        corners = [(2, 2), (2, shown.height - 3), (shown.width - 3, 2)]
        for corner in corners:
            pixel = upright.getpixel(corner)
            assert (shown.convert("RGB").getpixel(corner)[0] > 128) is (pixel[0] > 128)  # type: ignore[index]


# --- the cache ------------------------------------------------------------------------------------


def test_disk_cache_evicts_the_least_recently_used(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit_bytes=5 * (1000 + 512))
    for number in range(5):
        cache.put(f"{number}{number}", bytes(1000))
        os.utime(tmp_path / f"{number}{number}" / f"{number}{number}", (number, number))
    assert cache.get("00") == bytes(1000)
    cache.put("55", bytes(1000))
    kept = sorted(path.name for path in tmp_path.glob("??/*"))
    assert kept == ["00", "33", "44", "55"]


def test_disk_cache_counts_files_of_other_processes(tmp_path: Path) -> None:
    DiskCache(tmp_path, limit_bytes=10**6).put("aa", bytes(5000))
    os.utime(tmp_path / "aa" / "aa", (1, 1))
    cache = DiskCache(tmp_path, limit_bytes=6000)
    cache.put("bb", bytes(1000))
    assert (cache.get("aa"), cache.get("bb")) == (None, bytes(1000))


def test_disk_cache_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = DiskCache(blocked, limit_bytes=1000)
    cache.put("aa", b"x")
    assert cache.get("aa") is None
