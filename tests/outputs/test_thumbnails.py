import asyncio
import contextlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from backends.simulator.media import encode_webm
from jobgroups.api.views.outputs import thumbnails
from jobgroups.outputs import ffmpeg, thumbnails as making
from jobgroups.outputs.media_facts import media_facts
from jobgroups.outputs.resize import NotAnImage, thumbnail
from jobgroups.outputs.thumbnails import DiskCache
from tests.api.conftest import error_of, wrong_fields
from tests.harness import factories
from tests.harness.farm import in_thread
from tests.harness.graphs import black_png
from tests.outputs.conftest import Gallery, file, picture

db = pytest.mark.django_db(transaction=True)


def _size(webp: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as image:
        return image.size


@db
async def test_thumbnail_is_a_small_webp(gallery: Gallery) -> None:
    url = await gallery.one("a.png", picture(size=(1000, 500)))
    answer = await gallery.get(f"{url}?w=320")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/webp"
    assert _size(answer.content) == (320, 160)
    assert "160, 320" in wrong_fields(await gallery.get(f"{url}?w=321"))["w"]
    error_of(await gallery.get(f"{url}?w=320&h=5"), 400, "invalid_request")
    again = await gallery.get(f"{url}?w=320", If_None_Match=f"W/{answer.headers['ETag']}")
    assert (again.status_code, again.content) == (304, b"")


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
async def test_silent_backend_does_not_delay_thumbnails_of_others(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.outputs.thumbnails._DOWNLOAD_TIMEOUT", 120.0)
    url = await gallery.one("a.png", picture())
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        await in_thread(factories.backend)("gpu-9", url=address)
        mute = Gallery(gallery.sim, gallery.folder, backend_id="gpu-9")
        group, jobs = await mute.done({"images": [file(f"{n}.png") for n in range(12)]})
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(
                    mute.get(f"/api/job-groups/{group}/jobs/{jobs[0]}/outputs/{n}?w=160")
                )
                for n in range(12)
            ]
            await asyncio.sleep(0.5)
            async with asyncio.timeout(60):
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
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
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
    [
        b"<svg/>",
        b"",
        black_png(100_000, 100_000),
        black_png(9_000, 9_000),
        picture()[:200],
        b"%!PS\n",
    ],
    ids=["svg", "empty", "bomb", "too many pixels", "cut off", "postscript"],
)
async def test_undecodable_file_has_no_thumbnail(gallery: Gallery, content: bytes) -> None:
    url = await gallery.one("a.png", content)
    error_of(await gallery.get(f"{url}?w=320"), 404, "no_thumbnail")


@db
async def test_drawing_that_failed_is_not_repeated_for_a_while(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await gallery.one("a.png", black_png(9_000, 9_000))
    reason = error_of(await gallery.get(f"{path}?w=320"), 404, "no_thumbnail")["detail"]
    monkeypatch.setattr(thumbnails()._failed, "seconds", 0.0)
    error_of(await gallery.get(f"{path}?w=160"), 404, "no_thumbnail")
    gallery.put("a.png", picture())
    assert (await gallery.get(f"{path}?w=160")).status_code == 200
    again = error_of(await gallery.get(f"{path}?w=320"), 404, "no_thumbnail")["detail"]
    assert again == reason


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
async def test_large_original_has_a_thumbnail(gallery: Gallery) -> None:
    buffer = io.BytesIO()
    Image.new("L", (5_000, 5_000)).save(buffer, "PNG", compress_level=0)
    url = await gallery.one("a.png", buffer.getvalue())
    assert _size((await gallery.get(f"{url}?w=160")).content) == (160, 160)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (black_png(9_000, 9_000), "too many pixels"),
        # Pillow itself refuses it.
        (black_png(50_000, 50_000), "too many pixels"),
        # Pillow took 2 GB for one that is 1 pixel wide.
        (black_png(1, 2**26), "sides has more than 65536 pixels"),
        (black_png(2**26, 1), "sides has more than 65536 pixels"),
        (black_png(2**16 + 1, 2), "sides has more than 65536 pixels"),
    ],
    ids=["pixels", "bomb", "narrow", "flat", "long"],
)
def test_size_is_checked_before_decoding(
    content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _check_is_refused_before_decoding(content, reason, monkeypatch)


def test_webp_may_have_fewer_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder keeps copies."""
    buffer = io.BytesIO()
    Image.new("L", (4_097, 4_096)).save(buffer, "WEBP", method=0)
    _check_is_refused_before_decoding(buffer.getvalue(), "too many pixels", monkeypatch)


def _check_is_refused_before_decoding(
    content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(NotAnImage, match=reason):
        thumbnail(content, 320)


def test_thumbnail_takes_the_memory_of_one_decoded_image(tmp_path: Path) -> None:
    """8192 x 8192 pixels are 256 MiB, and took 1 GB."""
    (tmp_path / "large.png").write_bytes(black_png(8192, 8192, rows=8192))
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
    ended = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=120)
    megabytes = int(ended.stdout)
    assert 200 < megabytes < 320


def test_size_is_bounded_and_transparency_kept() -> None:
    for size, shown in (((64, 32), (64, 32)), ((100, 4_000), (24, 960))):
        assert _size(thumbnail(picture(size=size), 320)) == shown
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 32), (255, 0, 0, 0)).save(buffer, format="PNG")
    with Image.open(io.BytesIO(thumbnail(buffer.getvalue(), 320))) as image:
        assert image.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


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


# --- posters of videos ----------------------------------------------------------------------------


def _video(side: int = 400, *colors: str) -> bytes:
    return encode_webm(
        [Image.new("RGB", (side, side // 2), color) for color in colors or ("red", "blue")], 1
    )


@db
@pytest.mark.ffmpeg
async def test_poster_is_the_first_frame_of_a_video(gallery: Gallery) -> None:
    answer = await gallery.get(f"{await gallery.one('a.webm', _video())}?w=320")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (320, 160)
        red, _, blue = image.convert("RGB").getpixel((160, 80))  # type: ignore[misc]
    assert red > 200 > 50 > blue


@db
@pytest.mark.ffmpeg
@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", _video()[:400], picture()],
    ids=["empty", "html", "cut off", "another format"],
)
async def test_undecodable_video_has_no_poster(gallery: Gallery, content: bytes) -> None:
    error_of(await gallery.get(f"{await gallery.one('a.mp4', content)}?w=320"), 404, "no_thumbnail")


@pytest.mark.ffmpeg
@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{url}'\n",
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{url}"/></svg>',
    ],
    ids=["playlist", "concat", "svg"],
)
def test_video_opens_nothing_that_it_names(tmp_path: Path, content: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as named:
        named.setblocking(False)
        for url in (
            f"http://127.0.0.1:{named.getsockname()[1]}/a.ts",
            f"file:{tmp_path}/named.webm",
        ):
            (tmp_path / "named.webm").write_bytes(_video())
            (tmp_path / "a.mp4").write_text(content.format(url=url))
            with pytest.raises(NotAnImage):
                making.first_frame(f"file:{tmp_path}/a.mp4", 320)
            assert media_facts(tmp_path / "a.mp4", "a.mp4") == (None, None, None)
        with pytest.raises(BlockingIOError):
            named.accept()


@pytest.mark.ffmpeg
def test_probe_of_a_video_decodes_no_huge_frame_and_few_streams(tmp_path: Path) -> None:
    """Without limits, a file of 7 MB took more than 8 GB, and was killed after 20 s."""
    small, path = _video(64), tmp_path / "a.mkv"
    width, height = (side.to_bytes(8, "big") for side in (64, 32))
    path.write_bytes(
        small.replace(width, (8192).to_bytes(8, "big")).replace(height, (8192).to_bytes(8, "big"))
    )
    # Of the first frame, since no decoder opens for what the header claims.
    assert media_facts(path, "a.mkv") == (64, 32, 2.0)
    (tmp_path / "b.webm").write_bytes(small)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        f"{tmp_path}/b.webm",
        *["-map", "0"] * 20,
        "-c",
        "copy",
        "-y",
        str(path),
    ]
    subprocess.run(command, check=True)
    printed = ffmpeg.run("ffprobe", f"file:{path}", "matroska", ("-show_entries", "stream=index"))
    assert printed.count(b"index") == 8
    assert media_facts(path, "a.mkv")[:2] == (64, 32)


@db
async def test_video_has_no_poster_without_ffmpeg(gallery: Gallery, settings: Any) -> None:
    settings.FFMPEG = None
    body = error_of(await gallery.get(f"{await gallery.one('a.webm')}?w=320"), 404, "no_thumbnail")
    assert "needs ffmpeg" in body["detail"]


@pytest.mark.skipif(sys.platform == "win32", reason="a script in the place of ffmpeg")
def test_ffmpeg_leaves_the_processor_to_other_processes_first(tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nnice\n")
    program.chmod(0o755)
    assert int(ffmpeg.run(str(program), "file:video", "mov")) == min(os.nice(0) + 5, 19)


@pytest.mark.skipif(sys.platform == "win32", reason="a script in the place of ffmpeg")
def test_ffmpeg_that_does_not_end_is_killed(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "WITHIN", 0.3)
    slow = tmp_path / "ffmpeg"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    slow.chmod(0o700)
    settings.FFMPEG = str(slow)
    with pytest.raises(NotAnImage, match=r"no frame within 0\.3 s"):
        making.first_frame("file:a.webm", 320)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


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


def test_disk_cache_counts_files_of_other_processes_and_raises_nothing(tmp_path: Path) -> None:
    DiskCache(tmp_path, limit_bytes=10**6).put("aa", bytes(5000))
    os.utime(tmp_path / "aa" / "aa", (1, 1))
    cache = DiskCache(tmp_path, limit_bytes=6000)
    cache.put("bb", bytes(1000))
    assert (cache.get("aa"), cache.get("bb")) == (None, bytes(1000))
    blocked = DiskCache(tmp_path / "bb" / "bb", limit_bytes=1000)
    blocked.put("aa", b"x")
    assert blocked.get("aa") is None
