"""``serve``: what it refuses, where it listens, what it keeps."""

import re
import shutil
import socket
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from director.server import listen
from director.server.listen import display_hosts
from tests.harness.processes import Served, migrated, refused, serving

NAMES = "farm.example,.studio.example,192.0.2.7,[2001:db8::7]"
#: Three names that are no settings; the last one is the client's variable.
SLIPS = {"DIRECTOR_BACKEND": "localhost:8188", "DIRECTOR_XYZZY": "1", "DIRECTOR_URL": "x"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    variables = {"DIRECTOR_ALLOWED_HOSTS": NAMES, **SLIPS}
    with serving(tmp_path_factory.mktemp("director"), environment=variables) as director:
        yield director


def test_data_folder_has_one_director(served: Served) -> None:
    text = refused(served.folder, "serve", "--port", "0")
    assert "A Director is already running with this data folder" in text
    assert "DIRECTOR_DATA_DIR" in text


def test_serve_may_open_as_many_files_as_the_system_allows(served: Served) -> None:
    limits = Path(f"/proc/{served.process.pid}/limits")
    if not limits.exists():
        pytest.skip("the system has no /proc")
    (line,) = [one for one in limits.read_text().splitlines() if one.startswith("Max open files")]
    allowed, most = (int(one) for one in line.split()[3:5])
    assert allowed == min(most, 65_536)


def test_port_in_use_is_refused(served: Served, tmp_path: Path) -> None:
    port = served.url.rsplit(":", 1)[1]
    text = refused(tmp_path, "serve", "--port", "0", "--comfyui-port", port)
    assert f"Cannot listen on 127.0.0.1 port {port}" in text
    assert "Choose another with --comfyui-port or --host." in text
    with pytest.raises(listen.CannotListen, match="Choose another with --port or --host"):
        listen.bind_sockets("localhost", int(port))


@pytest.mark.parametrize(
    ("port", "variables", "text"),
    [
        ("0", {"DIRECTOR_GIVE_UP_SECONDS": "soon"}, "DIRECTOR_GIVE_UP_SECONDS is 'soon'; it must"),
        ("0", {"DIRECTOR_BACKENDS": "localhost:8188,ftp://x"}, "Address 2"),
        ("0", {"DIRECTOR_DATABASE_URL": "sqlite:////nowhere/at/all.sqlite3"}, "does not open"),
        ("99999", {}, "--port 99999 is not a port"),
    ],
)
def test_serve_refuses_invalid_settings_with_a_sentence(
    tmp_path: Path, port: str, variables: dict[str, str], text: str
) -> None:
    words = ("serve", "--processes", "1", "--port", port)
    assert text in refused(tmp_path, *words, **variables)


def test_misspelt_setting_is_reported_with_the_nearest_name(served: Served) -> None:
    printed = served.printed()
    assert "DIRECTOR_BACKEND is not a setting; did you mean DIRECTOR_BACKENDS?" in printed
    assert "DIRECTOR_XYZZY is not a setting; docs/settings.md lists all settings." in printed
    assert "DIRECTOR_URL" not in printed


def test_serve_listens_on_both_loopback_addresses(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    for host in ["127.0.0.1", "[::1]"] if socket.has_ipv6 else ["127.0.0.1"]:
        answer = httpx.get(f"http://{host}:{port}/api/health", trust_env=False, timeout=60)
        assert answer.status_code == 200, answer.text


def test_allowed_hosts_are_names_addresses_and_whole_domains(served: Served) -> None:
    statuses = {
        host: served.ask("GET", "/api/health", headers={"Host": host}).status_code
        for host in ("farm.example", "one.studio.example", "192.0.2.7", "[2001:db8::7]:80", "evil")
    }
    assert [*statuses.values()] == [200, 200, 200, 200, 400], statuses


def test_restart_keeps_the_secret_key_and_the_backends_of_the_environment(tmp_path: Path) -> None:
    director = Served(
        tmp_path, ["localhost:9", "http://127.0.0.1:9", "192.0.2.1:8188"], start=False
    )
    shutil.copytree(migrated(), director.data)
    paths, keys = [director.data / name for name in ("secret-key", "webhook-secret")], []
    permissions = []
    for _ in range(2):
        director.start()
        rows = director.ask("GET", "/api/backends").json()["backends"]
        assert [row["backend_id"] for row in rows] == ["192.0.2.1_8188", "localhost_9"]
        assert director.stop() == 0
        keys.append([path.read_text() for path in paths])
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
        with closing(sqlite3.connect(director.data / "director.sqlite3")) as database, database:
            permissions += database.execute("SELECT count(*) FROM auth_permission").fetchone()
            # As if the process had been killed after the migrations.
            database.execute("DELETE FROM auth_permission WHERE codename = 'change_backend'")
    assert permissions[0] == permissions[1] > 0
    assert keys[0] == keys[1]
    assert [len(key) > 40 for key in keys[0]] == [True, True]
    assert keys[0][1].startswith("whsec_")


@pytest.mark.parametrize(
    ("is_served", "text"),
    [(False, "use the same DIRECTOR_DATA_DIR"), (True, "has no tables yet. `serve` creates them")],
)
def test_command_without_a_database_names_what_is_missing(
    is_served: bool, text: str, tmp_path: Path
) -> None:
    if is_served:
        (tmp_path / "data").mkdir()
    said = refused(
        tmp_path,
        "createsuperuser",
        "--noinput",
        DJANGO_SUPERUSER_USERNAME="ada",
        DJANGO_SUPERUSER_PASSWORD="never-stored",
        DJANGO_SUPERUSER_EMAIL="ada@example.com",
    )
    assert text in said
    assert str(tmp_path / "data") in said


@pytest.mark.parametrize(("token", "status"), [("", 200), ("a-secret-of-the-farm", 401)])
def test_serve_on_all_addresses_prints_each_and_who_may_use_it(
    tmp_path: Path, token: str, status: int
) -> None:
    director = Served(
        tmp_path,
        arguments=["--host", "0.0.0.0", "--port", "0", "--allow-anonymous"],
        environment={"DIRECTOR_TOKEN": token},
    )
    try:
        name, port = director.url.removeprefix("http://").split(":")
        urls = [f"http://{host}:{port}" for host in display_hosts("0.0.0.0")]
        answers = [httpx.get(f"{url}/api/backends", trust_env=False, timeout=60) for url in urls]
    finally:
        assert director.stop() == 0
    assert name == "localhost"
    assert [answer.status_code for answer in answers] == [status] * len(urls)
    assert re.findall(r"On the network: (\S+)", director.printed()) == urls[1:]
    assert ("can submit and cancel" in director.printed()) is not bool(token)
    assert not token or token not in director.printed()


@pytest.mark.slow
def test_start_prints_how_long_a_migration_has_been_running(tmp_path: Path) -> None:
    lines = (
        "import sys; sys.argv[0] = 'manage.py'",
        "from director.management.commands import migrate; migrate.PROGRESS_SECONDS = 0.001",
        "from director.__main__ import main; main()",
    )
    starting = Served(tmp_path, program=("-c", "\n".join(lines)), start=False)
    try:
        starting.start()
        assert re.search(
            r"Migrating the database: jobgroups\.\S+ has been running for \d+ s\.\n",
            starting.printed(),
        )
    finally:
        starting.close()
