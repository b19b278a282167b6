"""Settings, the data folder and the server's own parts."""

import os
import re
import runpy
import stat
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory
from django.views.debug import technical_500_response
from pytest_django import Settings

from director.server.daphne import STALL_TIMEOUT, ClientStalled, _FlowControl
from director.server.data_dir import DataFolderUnusable, prepare
from tests.harness.processes import ROOT, python

INVALID = tomllib.loads(
    Path(__file__).with_name("invalid_settings.toml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    ("name", "value", "text"), [(name, *one) for name, some in INVALID.items() for one in some]
)
def test_invalid_setting_is_described(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=re.escape(text)) as refused:
        runpy.run_path(str(ROOT / "director" / "settings.py"))
    assert "hunter22" not in str(refused.value)


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


posix = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path, settings: Settings) -> Path:
    made = tmp_path / "data"
    settings.DIRECTOR_DATA_DIR = made
    settings.DIRECTOR_SECRET_KEY_FILE = made / "secret-key"
    settings.DIRECTOR_WEBHOOK_SECRET_FILE = made / "webhook-secret"
    return made


@posix
@pytest.mark.parametrize("mode", [0o755, 0o777, 0o701, 0o704])
def test_data_folder_of_the_director_alone_is_closed_to_other_users(
    folder: Path, mode: int
) -> None:
    folder.mkdir()
    for name in ("director.sqlite3", "director.sqlite3-wal", "serve.lock", "serve-9820.lock"):
        (folder / name).touch()
    for name in ("thumbnails", "files", "metrics"):
        (folder / name).mkdir()
    folder.chmod(mode)
    said: list[str] = []
    prepare(said.append)
    assert mode_of(folder) == 0o700
    assert said == [
        f"Other users of this machine could read {folder} (mode {mode:04o}); it is 0700 now."
    ]
    prepare(said.append)
    assert len(said) == 1


@posix
def test_data_folder_with_other_files_keeps_its_mode_and_what_is_readable_is_named(
    folder: Path,
) -> None:
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
def test_new_folder_of_files_is_its_owners_alone(
    folder: Path, tmp_path: Path, settings: Settings
) -> None:
    settings.DIRECTOR_FILES_DIR = tmp_path / "share" / "files"
    before = os.umask(0o022)
    try:
        prepare()
    finally:
        os.umask(before)
    assert mode_of(settings.DIRECTOR_FILES_DIR) == 0o700
    settings.DIRECTOR_FILES_DIR.chmod(0o750)
    prepare()
    assert mode_of(settings.DIRECTOR_FILES_DIR) == 0o750


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


_HANGS = """
import threading
from director.server import shutdown
shutdown.exit_after(0.2, status={status})
# As a database thread that waits for ever: the process would wait for it, too.
threading.Thread(target=threading.Event().wait).start()
"""


@pytest.mark.parametrize("status", [0, 1])
def test_what_hangs_is_left_behind_with_the_status_that_was_meant(status: int) -> None:
    began = time.monotonic()
    left = python("-c", _HANGS.format(status=status))
    assert left.returncode == status, left.stderr
    assert "a thread still runs after 0.2 s" in left.stderr
    assert time.monotonic() - began < 20


async def test_response_ends_when_its_client_reads_nothing() -> None:
    assert STALL_TIMEOUT == 60
    pace = _FlowControl()
    await pace.wait(0.05)
    pace.pauseProducing()
    with pytest.raises(ClientStalled):
        await pace.wait(0.05)
    pace.resumeProducing()
    await pace.wait(0.05)


SECRET = "correct-" + "horse-battery"


@pytest.mark.parametrize("accept", ["text/html", "text/plain"])
def test_no_password_stands_on_a_debug_page(settings: Settings, accept: str) -> None:
    settings.DIRECTOR_NOTIFY = [f"json://ann:{SECRET}@services.example/"]
    settings.DIRECTOR_REDIS_URL = f"redis://:{SECRET}@redis.example:6379/0"
    settings.CHANNEL_LAYERS = {"default": {"CONFIG": {"hosts": [settings.DIRECTOR_REDIS_URL]}}}
    settings.DIRECTOR_BACKENDS = [f"http://ann:{SECRET}@gpu.example:8188"]
    settings.DIRECTOR_TOKEN = settings.SECRET_KEY = SECRET
    request = RequestFactory().get("/", headers={"host": "localhost", "accept": accept})
    try:
        raise RuntimeError("a defect")
    except RuntimeError:
        page = technical_500_response(request, *sys.exc_info()).content.decode()
    assert "DIRECTOR_NOTIFY" in page
    assert SECRET not in page
