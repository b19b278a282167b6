import os
import stat
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from director.server.data_dir import DataFolderUnusable, prepare


@pytest.mark.parametrize("below", ["", "data", "deep/data"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, settings: Settings, below: str) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    settings.DIRECTOR_DATA_DIR = in_the_way / below
    with pytest.raises(DataFolderUnusable) as caught:
        prepare()
    assert f"{in_the_way} is a file; set DIRECTOR_DATA_DIR to a folder." in str(caught.value)


posix = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    made = tmp_path / "data"
    settings.DIRECTOR_DATA_DIR = made
    settings.DIRECTOR_SECRET_KEY_FILE = made / "secret-key"
    return made


@posix
@pytest.mark.parametrize("mode", [0o755, 0o777, 0o701, 0o704])
def test_data_folder_of_the_director_alone_is_closed_to_other_users(folder: Path, mode: int) -> None:
    folder.mkdir()
    for name in ("director.sqlite3", "director.sqlite3-wal", "serve.lock", "serve-9820.lock"):
        (folder / name).touch()
    (folder / "thumbnails").mkdir()
    folder.chmod(mode)
    said: list[str] = []
    prepare(said.append)
    assert mode_of(folder) == 0o700
    assert said == [f"Other users of this machine could read {folder} (mode {mode:04o}); it is 0700 now."]
    prepare(said.append)
    assert len(said) == 1


@posix
def test_data_folder_with_other_files_keeps_its_mode_and_what_is_readable_is_named(folder: Path) -> None:
    folder.mkdir()
    (folder / "holiday.jpg").touch(0o644)
    (folder / "director.sqlite3").touch(0o644)
    folder.chmod(0o755)
    said: list[str] = []
    prepare(said.append)
    assert mode_of(folder) == 0o755
    assert mode_of(folder / "secret-key") == 0o600
    (sentence,) = said
    assert f"can read {folder} (mode 0755), including director.sqlite3." in sentence


@posix
def test_mode_for_a_group_is_an_operators_decision(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o750)
    said: list[str] = []
    prepare(said.append)
    assert (mode_of(folder), said) == (0o750, [])


@posix
def test_new_folder_is_its_owners_alone_before_anything_lies_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch, modes = Path.touch, []

    def noted(path: Path, *args: Any, **fields: Any) -> None:
        modes.append(oct(mode_of(folder)))
        touch(path, *args, **fields)

    monkeypatch.setattr(Path, "touch", noted)
    before = os.umask(0o022)
    said: list[str] = []
    try:
        prepare(said.append)
    finally:
        os.umask(before)
    assert (modes, said) == (["0o700"], [])
    assert mode_of(folder / "secret-key") == 0o600
