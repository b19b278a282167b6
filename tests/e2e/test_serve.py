"""``serve`` as its user meets it: what it refuses, where it listens, what it keeps."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.served import ROOT, Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    folder = tmp_path_factory.mktemp("director")
    with serving(folder) as director:
        yield director, folder


def refused(folder: Path, *arguments: str, **environment: str) -> str:
    """Start a ``serve`` that must refuse, and return what it said in one line."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    done = subprocess.run(
        [sys.executable, "manage.py", "serve", *arguments],
        cwd=ROOT,
        env=inherited | {"DIRECTOR_DATA_DIR": str(folder), "DIRECTOR_DISCOVER": "0", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_a_data_folder_has_one_director(served: tuple[Served, Path]) -> None:
    _, folder = served
    said = refused(folder / "data", "--port", "0")
    assert "A Director is already running with this data folder" in said
    assert "DIRECTOR_DATA_DIR" in said


def test_another_host_than_loopback_must_be_allowed(tmp_path: Path) -> None:
    said = refused(tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert "--allow-anonymous" in said


def test_a_port_that_is_taken_is_said(served: tuple[Served, Path], tmp_path: Path) -> None:
    port = served[0].url.rsplit(":", 1)[1]
    assert f"Cannot listen on 127.0.0.1 port {port}" in refused(tmp_path, "--port", port)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DIRECTOR_GIVE_UP_SECONDS", "soon", "DIRECTOR_GIVE_UP_SECONDS is 'soon'; it must be a wh"),
        ("DIRECTOR_DEPTH", "99", "DIRECTOR_DEPTH is 99; it must be between 1 and 16"),
        ("DIRECTOR_DISCOVER", "perhaps", "use 1 (on) or 0 (off)"),
        ("DIRECTOR_DATABASE_URL", "mysql://x/y", "use postgres://user@host/name or sqlite:///"),
        ("DIRECTOR_REDIS_URL", "localhost", "must look like redis://host:6379/0"),
        ("DIRECTOR_ALLOWED_ORIGINS", "example.com", "write each as http://host:port"),
        ("DIRECTOR_SECRET_KEY", "short", "at least 32 characters"),
        ("DIRECTOR_LOG_LEVEL", "LOUD", "must be DEBUG, INFO, WARNING or ERROR"),
        ("DIRECTOR_BACKENDS", "localhost:8188,ftp://x", "Address 2"),
        ("DIRECTOR_DATABASE_URL", "sqlite:////nowhere/at/all.sqlite3", "does not open"),
    ],
)
def test_a_setting_that_cannot_be_is_said_in_a_sentence(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    assert said in refused(tmp_path, "--port", "0", **{name: value})


def test_a_data_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    said = refused(in_the_way / "data", "--port", "0")
    assert "cannot be used" in said
    assert "DIRECTOR_DATA_DIR" in said


def test_it_listens_on_both_loopback_addresses_and_no_other(served: tuple[Served, Path]) -> None:
    port = int(served[0].url.rsplit(":", 1)[1])
    hosts = ["127.0.0.1", "[::1]"] if socket.has_ipv6 else ["127.0.0.1"]
    for host in hosts:
        answer = httpx.get(f"http://{host}:{port}/api/health", trust_env=False)
        assert answer.status_code == 200, answer.text


def test_a_strange_host_name_is_refused_as_json(served: tuple[Served, Path]) -> None:
    answer = httpx.get(
        f"{served[0].url}/api/health", headers={"Host": "evil.example"}, trust_env=False
    )
    assert answer.status_code == 400
    assert set(answer.json()) == {"detail", "code"}


def test_the_secret_key_is_made_once_and_is_its_owners_only(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with serving(tmp_path):
            path = tmp_path / "data" / "secret-key"
            keys.append(path.read_text())
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys[0] == keys[1]
    assert len(keys[0]) > 40


def test_the_admins_style_sheet_is_served_without_debug(served: tuple[Served, Path]) -> None:
    answer = httpx.get(f"{served[0].url}/static/admin/css/base.css", trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    page = httpx.get(f"{served[0].url}/admin/login/", trust_env=False)
    assert "csrfmiddlewaretoken" in page.text


def test_backends_named_by_the_environment_are_registered_and_not_changed(tmp_path: Path) -> None:
    for _ in range(2):
        director = Served(tmp_path, ["localhost:9", "http://127.0.0.1:9", "192.0.2.1:8188"])
        rows = httpx.get(f"{director.url}/api/backends", trust_env=False).json()["backends"]
        assert [row["backend_id"] for row in rows] == ["192.0.2.1_8188", "localhost_9"]
        assert director.stop() == 0
