"""The data folder, where it cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_django import Settings

from director.datadir import DataFolderUnusable, prepare


@pytest.mark.parametrize("below", ["", "data", "deep/data"])
def test_a_file_in_the_place_of_the_folder_is_named(
    tmp_path: Path, settings: Settings, below: str
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    settings.DIRECTOR_DATA_DIR = in_the_way / below
    with pytest.raises(DataFolderUnusable) as caught:
        prepare()
    assert f"{in_the_way} is a file; set DIRECTOR_DATA_DIR to a folder." in str(caught.value)
