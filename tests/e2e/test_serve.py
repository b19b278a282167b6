"""``serve`` as its user meets it: what it refuses, where it listens, what it keeps."""

from __future__ import annotations

import os
import re
import runpy
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured

from director.server.listen import display_hosts
from tests.harness import processes
from tests.harness.processes import ROOT, Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    folder = tmp_path_factory.mktemp("director")
    with serving(folder) as director:
        yield director, folder


def refused(folder: Path, *arguments: str, **environment: str) -> str:
    """Start a ``serve`` that must refuse, and return what it said."""
    return processes.refused(folder, "serve", *arguments, **environment)


def test_a_data_folder_has_one_director(served: tuple[Served, Path]) -> None:
    _, folder = served
    said = refused(folder, "--port", "0")
    assert "A Director is already running with this data folder" in said
    assert "DIRECTOR_DATA_DIR" in said


def test_it_may_open_as_many_files_as_the_system_allows(served: tuple[Served, Path]) -> None:
    limits = Path(f"/proc/{served[0].process.pid}/limits")
    if not limits.exists():
        pytest.skip("the system has no /proc")
    (line,) = [one for one in limits.read_text().splitlines() if one.startswith("Max open files")]
    allowed, most = (int(one) for one in line.split()[3:5])
    assert allowed == min(most, 65_536)


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
        ("DIRECTOR_BACKENDS", "localhost:8188,ftp://x", "Address 2"),
        ("DIRECTOR_DATABASE_URL", "sqlite:////nowhere/at/all.sqlite3", "does not open"),
    ],
)
def test_an_invalid_setting_ends_serve_with_a_sentence(tmp_path: Path, name: str, value: str, said: str) -> None:
    assert said in refused(tmp_path, "--port", "0", **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DIRECTOR_DEPTH", "99", "DIRECTOR_DEPTH is 99; it must be between 1 and 16"),
        ("DIRECTOR_DISCOVER", "perhaps", "use 1 (on) or 0 (off)"),
        ("DIRECTOR_DATABASE_URL", "mysql://x/y", "use postgres://user@host/name or sqlite:///"),
        ("DIRECTOR_REDIS_URL", "localhost", "must look like redis://host:6379/0"),
        ("DIRECTOR_ALLOWED_ORIGINS", "example.com", "write each as http://host:port"),
        ("DIRECTOR_ALLOWED_HOSTS", "a.example,http://farm.example", "write host names only"),
        ("DIRECTOR_ALLOWED_HOSTS", "a.example,farm.example/", "has 'farm.example/'"),
        ("DIRECTOR_ALLOWED_HOSTS", "a.example,farm.example:9820", "has 'farm.example:9820'"),
        ("DIRECTOR_SECRET_KEY", "short", "at least 32 characters"),
        ("DIRECTOR_LOG_LEVEL", "LOUD", "must be DEBUG, INFO, WARNING or ERROR"),
    ],
)
def test_an_invalid_setting_is_described(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=re.escape(said)):
        runpy.run_path(str(ROOT / "director" / "settings.py"))


def test_a_data_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    said = refused(in_the_way, "--port", "0")
    assert "cannot be used" in said
    assert "DIRECTOR_DATA_DIR" in said


def test_it_listens_on_both_loopback_addresses_and_no_other(served: tuple[Served, Path]) -> None:
    port = int(served[0].url.rsplit(":", 1)[1])
    hosts = ["127.0.0.1", "[::1]"] if socket.has_ipv6 else ["127.0.0.1"]
    for host in hosts:
        answer = httpx.get(f"http://{host}:{port}/api/health", trust_env=False)
        assert answer.status_code == 200, answer.text


def test_a_strange_host_name_is_refused_as_json(served: tuple[Served, Path]) -> None:
    answer = httpx.get(f"{served[0].url}/api/health", headers={"Host": "evil.example"}, trust_env=False)
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


FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
A_PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
#: Seconds in which everybody else is answered while a long body comes in.
AT_ONCE = 0.5
LONG = 20 * 2**20


@pytest.mark.parametrize(("media_type", "part", "end"), [(FORM, b"a=%31&", b""), (MULTIPART, A_PART, b"--x--\r\n")])
@pytest.mark.parametrize(("origin", "status"), [("https://stranger.example", 403), ("http://localhost", 413)])
def test_a_long_form_of_a_web_page_holds_nobody_up(
    served: tuple[Served, Path], media_type: str, part: bytes, end: bytes, origin: str, status: int
) -> None:
    url = served[0].url
    body = part * (LONG // len(part)) + end
    headers = {"Content-Type": media_type, "Origin": origin}
    waits = []
    with ThreadPoolExecutor() as others, httpx.Client(trust_env=False, timeout=60) as client:
        posted = others.submit(httpx.post, f"{url}/api/job-group", content=body, headers=headers, trust_env=False)
        while not posted.done() or not waits:
            asked = time.monotonic()
            assert client.get(f"{url}/api/health").status_code == 200
            waits.append(time.monotonic() - asked)
    answer = posted.result()
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail", "code"}
    assert max(waits) < AT_ONCE


def test_a_malformed_form_is_refused_as_json(served: tuple[Served, Path]) -> None:
    answer = httpx.post(
        f"{served[0].url}/api/job-group",
        content=b"no part at all",
        headers={"Content-Type": MULTIPART},
        trust_env=False,
    )
    assert answer.status_code == 415
    assert answer.json()["code"] == "unsupported_media_type"


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_is_none_is_said(tmp_path: Path, port: str) -> None:
    assert f"--port {port} is not a port" in refused(tmp_path, "--port", port)


def test_allowed_hosts_take_names_addresses_and_whole_domains(tmp_path: Path) -> None:
    hosts = {"DIRECTOR_ALLOWED_HOSTS": "farm.example,.studio.example,192.0.2.7,[2001:db8::7]"}
    with serving(tmp_path, environment=hosts) as director:
        for host in ("farm.example", "one.studio.example", "192.0.2.7", "[2001:db8::7]:80"):
            answer = httpx.get(f"{director.url}/api/health", headers={"Host": host}, trust_env=False)
            assert answer.status_code == 200, host


def test_a_command_without_the_database_says_where_it_looked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "createsuperuser", "--noinput"],
        cwd=ROOT,
        env=os.environ
        | {
            "DIRECTOR_DATA_DIR": str(tmp_path / "never-served"),
            "DIRECTOR_DATABASE_URL": "",
            "DJANGO_SUPERUSER_USERNAME": "ada",
            "DJANGO_SUPERUSER_PASSWORD": "never-stored",
            "DJANGO_SUPERUSER_EMAIL": "ada@example.com",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "use the same DIRECTOR_DATA_DIR" in done.stderr
    assert "never-served" in done.stderr


@pytest.mark.parametrize(("token", "status"), [("", 200), ("a-secret-of-the-farm", 401)])
def test_on_all_addresses_each_is_said_and_who_may_do_what(tmp_path: Path, token: str, status: int) -> None:
    director = Served(
        tmp_path,
        arguments=["--host", "0.0.0.0", "--port", "0", "--allow-anonymous"],
        environment={"DIRECTOR_TOKEN": token},
    )
    try:
        name, port = director.url.removeprefix("http://").split(":")
        urls = [f"http://{host}:{port}" for host in display_hosts("0.0.0.0")]
        answers = [httpx.get(f"{url}/api/backends", trust_env=False) for url in urls]
    finally:
        assert director.stop() == 0
    assert name == "localhost"
    assert [answer.status_code for answer in answers] == [status] * len(urls)
    assert re.findall(r"On the network: (\S+)", director.printed()) == urls[1:]
    assert ("can submit and cancel" in director.printed()) is not bool(token)


def test_on_loopback_nothing_is_said_of_a_network(served: tuple[Served, Path]) -> None:
    assert "network" not in served[0].printed()
    assert "Everybody" not in served[0].printed()


def test_the_admin_is_found_without_its_slash(served: tuple[Served, Path]) -> None:
    answer = httpx.get(f"{served[0].url}/admin", trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")


def test_a_redis_that_was_never_there_is_not_said_to_be_back(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        director = Served(tmp_path, environment={"DIRECTOR_REDIS_URL": url})
        assert director.stop() == 0
    assert "channel layer: unavailable" in director.printed()
    assert "channel layer: available" not in director.printed()
