import errno
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from director import client
from director.client import Child, Director, OutputFile, Outputs, downloads
from director.client.file_writer import AtomicFile
from jobgroups.domain.file_names import FileName
from tests.client.conftest import Driven
from tests.client.server import FakeDirector


def image(server: FakeDirector, name: str, content: bytes, **fields: Any) -> OutputFile:
    server.files[name] = content
    url = f"{server.url}/view?filename={name}"
    origin = {"job_id": "j_1", "backend_id": "gpu_8188", "seed": 42}
    return OutputFile(filename=name, **{"url": url, **origin, **fields})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def child_of(*files: OutputFile) -> Child:
    outputs = Outputs(files=files)
    return Child(job_id="j_1", backend_id="gpu_8188", seed=42, status="completed", outputs=outputs)


def test_file_is_saved_also_after_lost_connections(
    either: Driven, server: FakeDirector, tmp_path: Path
) -> None:
    content = os.urandom(300_000)
    folder = tmp_path / "new" / "folder"
    server.break_files = 2
    [path] = either.download(image(server, "a.png", content, url="/view?filename=a.png"), folder)
    assert len(server.requests) == 3
    assert path == folder / "42_gpu_8188_a.png"
    assert path.read_bytes() == content
    assert names(folder) == [path.name]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_missing_files_of_a_job_are_left_out(
    director: Director, server: FakeDirector, tmp_path: Path
) -> None:
    gone = image(server, "gone.png", b"", missing=True)
    child = child_of(image(server, "a.png", b"a"), gone, image(server, "b.gif", b"b", kind="gifs"))
    paths = director.download(child, tmp_path, name="{job}-{name}")
    assert [p.name for p in paths] == ["j_1-a.png", "j_1-b.gif"]
    with pytest.raises(client.NotFound):
        director.download(gone, tmp_path)


def test_replaced_file_is_logged_and_not_downloaded(
    director: Director, server: FakeDirector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = image(server, "a.png", b"another file", missing=True, reason="replaced")
    assert not director.download(child_of(old), tmp_path)
    assert "Not downloaded: a.png was replaced" in caplog.text
    with pytest.raises(client.NotFound, match=r"a\.png was replaced: another file has its name"):
        director.download(old, tmp_path)
    assert names(tmp_path) == []


def test_other_sources_are_refused(director: Director, tmp_path: Path) -> None:
    for source in ("jg_0123456789ab", None, [child_of()], {"filename": "a.png"}):
        with pytest.raises(TypeError, match=f"a Group, not {type(source).__name__}"):
            director.download(source, tmp_path)


def test_token_is_not_sent_to_a_backend(
    either: Driven, server: FakeDirector, tmp_path: Path
) -> None:
    with FakeDirector() as backend:
        either.download(image(backend, "a.png", b"x"), tmp_path)
        either.download(image(server, "b.png", b"x"), tmp_path)
        assert ["authorization" in h for _, _, h, _ in backend.requests] == [False]
        assert ["authorization" in h for _, _, h, _ in server.requests] == [True]


def test_no_file_is_overwritten_or_saved_twice(
    either: Driven, server: FakeDirector, tmp_path: Path
) -> None:
    saved = image(server, "a.png", b"first")
    [first] = either.download(saved, tmp_path)
    before = first.stat().st_ino
    assert either.download(saved, tmp_path) == (first,)
    assert first.stat().st_ino == before
    server.files["a.png"] = b"second"
    [second] = either.download(saved, tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert second.name == "42_gpu_8188_a_2.png"
    assert either.download(saved, tmp_path) == (second,)


def test_incomplete_and_refused_files_are_removed(
    either: Driven, server: FakeDirector, tmp_path: Path
) -> None:
    server.break_files = 4
    saved = image(server, "a.png", b"x" * 100_000)
    with pytest.raises(client.Unreachable):
        either.download(saved, tmp_path)
    server.files.clear()
    with pytest.raises(client.NotFound):
        either.download(saved, tmp_path)
    assert names(tmp_path) == []


def test_file_is_saved_when_the_limit_of_requests_permits_it_again(
    either: Driven, server: FakeDirector, tmp_path: Path
) -> None:
    server.unavailable["GET", "/view"] = (3, "too_many_requests")
    (path,) = either.download(image(server, "a.png", b"kept"), tmp_path)
    assert path.read_bytes() == b"kept"


def test_captured_file_is_read_from_the_director(
    either: Driven, server: FakeDirector, tmp_path: Path
) -> None:
    gone = "http://127.0.0.1:9/view"
    file = image(server, "a.png", b"kept", url=gone, captured=True, file_url="/view?filename=a.png")
    (path,) = either.download(file, tmp_path)
    assert path.read_bytes() == b"kept"


def test_address_without_a_host_is_below_the_path_of_the_director() -> None:
    file = OutputFile(
        filename="a.png", url="/api/job-groups/jg_1/jobs/j_1/outputs/0", type="websocket"
    )
    assert (
        downloads._address("https://host/farm", file)
        == "https://host/farm/api/job-groups/jg_1/jobs/j_1/outputs/0"
    )


def test_sheet_is_saved_page_by_page(either: Driven, tmp_path: Path) -> None:
    paths = either.sheet("jg_1", tmp_path / "a.webp", axes=["cfg", "seed"])
    assert [(path.name, path.read_text()) for path in paths] == [
        ("a.webp", "axes=cfg,seed&page=1"), ("a_2.webp", "axes=cfg,seed&page=2")
    ]  # fmt: skip


def test_wrong_url_is_an_error(either: Driven, tmp_path: Path) -> None:
    for url in ("http://[", "file:///etc/hostname", "http://x:y/", "http://"):
        with pytest.raises(client.DirectorError):
            either.download(OutputFile(filename="a.png", url=url), tmp_path)
    assert names(tmp_path) == []


def test_template_with_another_placeholder_is_refused(
    director: Director, server: FakeDirector, tmp_path: Path
) -> None:
    file = image(server, "a.png", b"x")
    with pytest.raises(ValueError, match="plain name"):
        director.download(file, tmp_path, name="{seed.nope}")
    with pytest.raises(ValueError, match=r"No file has \{nope\}"):
        director.download(replace(file, group_metadata={}), tmp_path, name="{nope}")
    assert server.requests == []
    # The metadata of a file of an event are not known.
    assert [path.name for path in director.download(file, tmp_path, name="{scene}{seed}")] == [
        "42.png"
    ]


def test_nothing_is_overwritten_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("director.client.file_writer.os.link", refuse)
    landed = []
    # The last is one of a download in another order.
    for content, number in ((b"first", 1), (b"second", 1), (b"first", 2)):
        with AtomicFile(tmp_path, FileName("a", ".png", number)) as written:
            written.write(content)
            landed.append(written.commit())
    assert [p.name for p in landed] == ["a.png", "a_2.png", "a.png"]
    assert [p.read_bytes() for p in landed] == [b"first", b"second", b"first"]
    assert names(tmp_path) == ["a.png", "a_2.png"]


@pytest.mark.parametrize("size", [5, 300_000])
def test_file_that_is_there_is_no_error_on_a_full_disk(
    either: Driven, server: FakeDirector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    there, other = (image(server, name, os.urandom(size)) for name in ("a.png", "b.png"))
    for file in (replace(other, filename="a.png"), there):
        either.download(file, tmp_path, "{name}")
    assert names(tmp_path) == ["a.png", "a_2.png"]
    opened = Path.open

    def full(path: Path, *how: Any) -> Any:
        return opened(Path("/dev/full"), "wb") if path.suffix == ".part" else opened(path, *how)

    monkeypatch.setattr(Path, "open", full)
    assert either.download(there, tmp_path, "{name}") == (tmp_path / "a_2.png",)
    for absent in (other, image(server, "a.png", os.urandom(size))):
        with pytest.raises(OSError, match="No space left"):
            either.download(absent, tmp_path, "{name}")
    assert names(tmp_path) == ["a.png", "a_2.png"]
