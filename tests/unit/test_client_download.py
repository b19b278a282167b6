"""Downloads: names, collisions, broken connections."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from director import client
from director.client import Child, OutputFile, Outputs
from director.client.file_writer import AtomicFile, relative_path, safe_part
from tests.unit.client_driver import client_kinds
from tests.unit.client_server import FakeDirector


@pytest.fixture
def server() -> Iterator[FakeDirector]:
    with FakeDirector() as fake:
        yield fake


@pytest.fixture(params=client_kinds())
def director(request: pytest.FixtureRequest, server: FakeDirector) -> Iterator[Any]:
    with request.param(server.url, token="secret") as driven:
        yield driven


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


def test_a_picture_is_saved_under_its_seed_and_backend(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    content = os.urandom(300_000)
    folder = tmp_path / "new" / "folder"
    [path] = director.download(image(server, "a.png", content), folder)
    assert path == folder / "42_gpu_8188_a.png"
    assert path.read_bytes() == content
    assert names(folder) == [path.name]


def test_a_file_has_the_usual_permissions(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    [path] = director.download(image(server, "a.png", b"x"), tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_all_files_of_a_child_are_saved_but_those_that_are_gone(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    gone = image(server, "gone.png", b"", missing=True)
    child = child_of(image(server, "a.png", b"a"), gone, image(server, "b.gif", b"b", kind="gifs"))
    paths = director.download(child, tmp_path, name="{job}-{name}")
    assert [p.name for p in paths] == ["j_1-a.png", "j_1-b.gif"]
    with pytest.raises(client.NotFound):
        director.download(gone, tmp_path)


def test_a_replaced_file_is_named_in_the_log_and_not_downloaded(
    director: Any, server: FakeDirector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = image(server, "a.png", b"another picture", missing=True, reason="replaced")
    assert not director.download(child_of(old), tmp_path)
    assert "Not downloaded: a.png was replaced" in caplog.text
    with pytest.raises(client.NotFound, match=r"a\.png was replaced: another file has its name"):
        director.download(old, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("source", ["jg_0123456789ab", None, [child_of()], {"filename": "a.png"}])
def test_what_has_no_files_cannot_be_downloaded(
    director: Any, tmp_path: Path, source: object
) -> None:
    with pytest.raises(TypeError, match=f"a Group, not {type(source).__name__}"):
        director.download(source, tmp_path)
    assert names(tmp_path) == []


def test_a_url_relative_to_the_director_is_followed(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    [path] = director.download(image(server, "a.png", b"x", url="/view?filename=a.png"), tmp_path)
    assert path.read_bytes() == b"x"


def test_the_token_is_not_shown_to_a_backend(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    with FakeDirector() as backend:
        director.download(image(backend, "a.png", b"x"), tmp_path)
        director.download(image(server, "b.png", b"x"), tmp_path)
        assert ["authorization" in h for _, _, h, _ in backend.requests] == [False]
        assert ["authorization" in h for _, _, h, _ in server.requests] == [True]


def test_downloading_twice_changes_nothing(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    picture = image(server, "a.png", b"same")
    first = director.download(picture, tmp_path)
    before = first[0].stat().st_ino
    assert director.download(picture, tmp_path) == first
    assert first[0].stat().st_ino == before
    assert len(names(tmp_path)) == 1


def test_another_file_of_the_same_name_is_kept(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    picture = image(server, "a.png", b"first")
    [first] = director.download(picture, tmp_path)
    server.files["a.png"] = b"second"
    [second] = director.download(picture, tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert second.name == "42_gpu_8188_a_2.png"
    assert director.download(picture, tmp_path) == (second,)


def test_a_connection_that_breaks_is_begun_again(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    content = os.urandom(200_000)
    server.break_files = 2
    [path] = director.download(image(server, "a.png", content), tmp_path)
    assert path.read_bytes() == content
    assert len(server.requests) == 3


def test_a_file_that_never_comes_whole_leaves_nothing(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    server.break_files = 100
    with pytest.raises(client.Unreachable):
        director.download(image(server, "a.png", b"x" * 100_000), tmp_path)
    assert names(tmp_path) == []


def test_a_refused_file_leaves_nothing(director: Any, server: FakeDirector, tmp_path: Path) -> None:
    picture = image(server, "a.png", b"x")
    server.files.clear()
    with pytest.raises(client.NotFound):
        director.download(picture, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://[", "file:///etc/hostname", "http://x:y/", "http://"])
def test_a_url_that_is_none_is_told(director: Any, tmp_path: Path, url: str) -> None:
    with pytest.raises(client.DirectorError):
        director.download(OutputFile(filename="a.png", url=url), tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_os_error(
    director: Any, server: FakeDirector, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        director.download(image(server, "a.png", b"x"), tmp_path / "file" / "below")


HOSTILE = [
    "../../../etc/passwd",
    "..\\..\\boot.ini",
    "/etc/passwd",
    "C:\\a.png",
    "a\x00b\n.png",
    "..",
    "",
    "   ",
    "NUL.png",
    "con",
    "é" * 400 + ".png",
    "a." + "b" * 400,
    "\ud800.png",
    "~/.bashrc",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_the_folder(name: str, tmp_path: Path) -> None:
    file = OutputFile(filename=name, backend_id=name, seed=1)
    templates = ["{name}", "{seed}_{backend}_{name}", "{backend}/{name}", "/{name}", "../{name}"]
    for number, template in enumerate(templates):
        folder = tmp_path / str(number)
        target = folder / relative_path(file, template)
        assert target.resolve().is_relative_to(folder.resolve())
        assert target != folder
        assert ".." not in target.parts
        with AtomicFile(target) as written:
            written.write(b"x")
            assert written.commit().read_bytes() == b"x"


def test_a_name_keeps_its_extension_and_its_plain_letters() -> None:
    assert safe_part("ComfyUI_00001_.png") == "ComfyUI_00001_.png"
    assert safe_part("Ü b.png") == "Ü b.png"
    assert safe_part("x" * 500 + ".png").endswith("x.png")
    assert safe_part("aux.png") == "_aux.png"


@pytest.mark.parametrize("template", ["{nope}", "{}", "{0}", "{seed.nope}", "{"])
def test_a_template_with_something_else_is_refused(
    director: Any, server: FakeDirector, tmp_path: Path, template: str
) -> None:
    with pytest.raises(ValueError, match="name template"):
        director.download(image(server, "a.png", b"x"), tmp_path, name=template)
    assert server.requests == []


def test_a_file_system_without_hard_links_overwrites_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("director.client.file_writer.os.link", refuse)
    target = tmp_path / "a.png"
    landed = []
    for content in (b"first", b"second", b"first"):
        with AtomicFile(target) as written:
            written.write(content)
            landed.append(written.commit())
    assert [p.name for p in landed] == ["a.png", "a_2.png", "a.png"]
    assert [p.read_bytes() for p in landed] == [b"first", b"second", b"first"]
    assert names(tmp_path) == ["a.png", "a_2.png"]
