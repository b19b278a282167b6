"""The commands of docs/operations.md, run on an imitated machine, and the behaviour that the page
promises.

The tests run in the order of the page on one machine: each section uses the results of the sections
before it.
"""

import json
import os
import re
import shlex
import shutil
import sqlite3
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import load_command_class

from tests.e2e.operations import page
from tests.e2e.operations.machine import NAME, Machine, machine
from tests.harness.graphs import picture
from tests.harness.laws import Seen
from tests.harness.machines import Machines, simulated
from tests.harness.processes import Served
from tests.harness.servers import needs_servers
from tests.harness.waits import answers, until

_NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
_REQUIRED = os.environ.get("DIRECTOR_TEST_SERVICES") == "required"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="the page is for Debian and Ubuntu"),
    needs_servers,
    pytest.mark.skipif(_NGINX is None and not _REQUIRED, reason="nginx is not installed"),
]

#: The sections with commands, in the order of the tests.
_SETTING_UP = ("Install", "PostgreSQL and Redis", "Start", "nginx")
_FOLLOWED = (
    *_SETTING_UP,
    *("Another ASGI server", "Backup", "Restore", "SQLite", "Health", "Logs", "What to do when"),
    "Purge",
)
_GPUS = ("gpu-1", "gpu-2")
_ADDRESSES = ("192.168.100.6:8188", "192.168.100.7:8188")
_GROUP, _JOB = "jg_0c1d9a77e3f2", "j_91ce44d07b3a"


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with simulated(tmp_path_factory.mktemp("gpus"), count=2, seconds=0.4) as running:
        yield running


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, gpus: Machines) -> Iterator[Machine]:
    """The machine after the commands of the page up to nginx."""
    with machine(tmp_path_factory.mktemp("machine")) as made:
        addresses = dict(zip(_ADDRESSES, gpus.urls, strict=True))
        with unless_pip_reaches_nothing():
            printed = [made.follow(block, **addresses) for block in page.of(*_SETTING_UP)]
        # The result of `director doctor`.
        assert "No problems." in "".join(printed)
        yield made


@contextmanager
def unless_pip_reaches_nothing() -> Iterator[None]:
    """Skip the test if pip reaches no index, unless services are required."""
    try:
        yield
    except AssertionError as error:
        if _REQUIRED or "Could not find a version" not in str(error):
            raise
        pytest.skip("pip reaches no index")


@pytest.fixture
def http(farm: Machine) -> Iterator[httpx.Client]:
    with farm.client() as client:
        farm.wait_healthy(client)
        yield client


def submit(http: httpx.Client, each: int, backends: Sequence[str] = _GPUS, **workflow: Any) -> str:
    body = {"workflow_json": {**picture(), **workflow}, "backend_ids": list(backends) * each}
    answer = http.post("/api/job-group", json=body)
    assert answer.status_code == 201, answer.text
    group_id: str = answer.json()["job_group_id"]
    return group_id


@contextmanager
def held(http: httpx.Client, backend: str) -> Iterator[None]:
    assert http.post(f"/api/backends/{backend}/pause").status_code == 200
    try:
        yield
    finally:
        assert http.post(f"/api/backends/{backend}/resume").status_code == 200


def wait_complete(http: httpx.Client, group_id: str) -> dict[str, Any]:
    """Wait for a group's end, check that each job completed, and return the group."""

    def group() -> dict[str, Any]:
        found: dict[str, Any] = http.get(f"/api/job-groups/{group_id}").json()
        return found

    until(lambda: group().get("completed_at"), 90.0, group)
    assert {child["status"] for child in group()["child_jobs"]} == {"completed"}, group()
    return group()


def wait_started(gpus: Machines, more: int) -> None:
    gpus.wait_kind("started", more, after=len(gpus.seen()))


def renders(gpus: Machines, jobs: Sequence[str]) -> dict[str, int]:
    """Return how often each of these jobs was executed, by the backends' audit log."""
    seen = Seen(gpus.seen())
    started = Counter(seen.job[one] for one, kinds in seen.kinds.items() if kinds["started"])
    return {job: started[job] for job in jobs}


# --- the page and its files
# -------------------------------------------------------------------------


def test_each_section_with_commands_is_followed() -> None:
    assert list(dict.fromkeys(block.section for block in page.blocks())) == [*_FOLLOWED]


def test_each_file_is_named_by_the_page() -> None:
    linked = set(re.findall(r"\]\((operations/[^)]+)\)", page.TEXT))
    unnamed = {f"operations/{file.name}" for file in page.FILES.iterdir()} - linked
    assert unnamed == {"operations/director-purge.timer"}
    # As DIRECTOR_MAX_BODY_BYTES.
    assert "client_max_body_size 16m;" in (page.FILES / "nginx.conf").read_text(encoding="utf-8")


def test_commands_of_the_procfile_are_accepted() -> None:
    lines = (page.FILES / "Procfile").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    for line in lines:
        program, name, *options = shlex.split(line.partition(": ")[2])
        load_command_class("director", name).create_parser(program, name).parse_args(options)


def test_systemd_accepts_the_units(farm: Machine) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    folder = farm.root / "etc/systemd/system"
    # The user of the units does not exist here.
    for file in folder.iterdir():
        text = re.sub(
            r"^(User|Group)=.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        file.write_text(text, encoding="utf-8")
    for name in (
        "director-web@9820.service",
        "director-runner@1.service",
        "director-files@1.service",
        "director-purge.timer",
    ):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", folder / name],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        # Messages about other units of this machine are ignored.
        ours = [line for line in done.stderr.splitlines() if "director-" in line]
        assert (done.returncode, ours) == (0, []), done.stderr


# --- through nginx
# ----------------------------------------------------------------------------------


def test_stream_and_requests_continue_through_nginx_while_each_web_is_killed_in_turn(
    farm: Machine, gpus: Machines, http: httpx.Client
) -> None:
    with ExitStack() as waits, watching(farm, farm.url) as watch:
        for backend in _GPUS:
            waits.enter_context(held(http, backend))
        group_id = submit(http, each=4)
        watcher = watch(group_id)
        for port in farm.webs:
            web = farm.systemd.unit(f"director-web@{port}")
            web.kill()
            assert http.get(f"/api/job-groups/{group_id}").status_code == 200
            assert http.get("/").status_code == 200
            submit(http, each=1)
            web.start()
            # nginx avoids a server that has refused for a while: the next kill must wait.
            until(lambda: answers(f"http://localhost:{port}/sign-in"))  # noqa: B023 called at once
        waits.close()
        frames = ended(watcher)
    events = [frame for frame in frames if frame.get("seq") and frame["type"] != "initial_state"]
    seqs = [frame["seq"] for frame in events]
    assert seqs == list(range(2, 2 + len(seqs))), "lost or doubled"
    assert [event["type"] for event in events].count("child_completed") == 8
    assert events[-1]["type"] == "group_complete"
    jobs = [child["job_id"] for child in wait_complete(http, group_id)["child_jobs"]]
    assert set(renders(gpus, jobs).values()) == {1}


@contextmanager
def watching(farm: Machine, url: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Give a function that starts ``director watch`` for a group and returns after its first frame."""
    started: list[subprocess.Popen[str]] = []

    def watch(group_id: str) -> subprocess.Popen[str]:
        command = [str(farm.director), "watch", group_id, "--server", url, "--json"]
        process = subprocess.Popen(
            command, env=farm.people(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert "initial_state" in process.stdout.readline()
        return process

    try:
        yield watch
    finally:
        for one in started:
            one.kill()
            one.communicate()


def ended(watcher: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, out + errors
    return [json.loads(line) for line in out.splitlines()]


def test_images_and_long_workflows_pass_and_a_too_long_body_is_refused(
    farm: Machine, http: httpx.Client, tmp_path: Path
) -> None:
    padded = picture()
    padded["6"]["inputs"]["text"] = "x" * 2 * 2**20
    group_id = submit(http, each=1, **padded)
    wait_complete(http, group_id)
    saved = subprocess.run(
        [farm.director, "save", group_id, "--to", str(tmp_path)],
        env=farm.people(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert saved.returncode == 0, saved.stderr
    assert len([one for one in tmp_path.iterdir() if one.read_bytes().startswith(b"\x89PNG")]) == 2
    too_long = b" " * (16 * 2**20 + 1)
    own, v2 = (http.post(path, content=too_long) for path in ("/api/job-group", "/api/v2/jobs"))
    assert (own.status_code, v2.status_code) == (413, 413)
    assert own.json() == {"detail": "The body is too long.", "code": "payload_too_large"}
    assert v2.json()["error"]["code"] == "payload_too_large"
    file = {"file": ("a", too_long)}
    asset = http.post(
        "/api/v2/assets", files=file, data={"content_type": "text/plain", "file_path": "a.txt"}
    ).json()
    assert asset["url"].startswith("https://")
    assert http.delete(f"/api/v2/assets/{asset['id']}").status_code == 204
    assert http.post("/api/provenance", files=file).json()["code"] == "provenance_unknown"


def test_browser_signs_in_under_the_studios_name(farm: Machine, http: httpx.Client) -> None:
    group_id = submit(http, each=4)
    token = farm.settings()["DIRECTOR_TOKEN"]
    name = {"extensions": {"sni_hostname": NAME}}
    with farm.client(headers={"Host": NAME}) as browser:
        redirect = browser.get("/", **name)
        assert (redirect.status_code, redirect.headers["Location"]) == (302, "/sign-in?next=/")
        origin = {"Origin": f"https://{NAME}"}
        signed = browser.post("/sign-in", data={"token": token}, headers=origin, **name)
        assert signed.status_code == 302, signed.text
        given = signed.headers["Set-Cookie"]
        assert "director_session=" in given
        assert "; secure" in given.lower()
        cookie = {"Cookie": given.partition(";")[0]}
        assert browser.get("/", headers=cookie, **name).status_code == 200
        path = f"/api/job-groups/{group_id}"
        foreign = {**cookie, "Origin": "https://elsewhere.example"}
        assert browser.delete(path, headers=foreign, **name).status_code == 403
        assert browser.delete(path, headers={**cookie, **origin}, **name).status_code == 200
    plain = httpx.post(f"http://localhost:{farm.http}/api/job-group", trust_env=False)
    assert plain.status_code == 308
    assert plain.headers["Location"] == "https://localhost/api/job-group"


def test_wrong_tokens_block_one_client_only(farm: Machine, http: httpx.Client) -> None:
    """Each of the two webs blocks the client after ten wrong tokens."""
    trusted = ssl.create_default_context(cafile=str(farm.certificate))
    elsewhere = httpx.HTTPTransport(verify=trusted, local_address="127.0.0.2")
    with httpx.Client(base_url=farm.url, transport=elsewhere) as other:
        answers = [
            other.get("/api/backends", headers={"Authorization": "Bearer wrong"}).status_code
            for _ in range(25)
        ]
    assert answers[0] == 401
    assert answers[-1] == 429
    assert [http.get("/api/backends").status_code for _ in range(4)] == [200] * 4


# --- another server
# ---------------------------------------------------------------------------------


def test_uvicorn_serves_as_the_page_says(
    farm: Machine, http: httpx.Client, gpus: Machines, tmp_path: Path
) -> None:
    [install] = page.of("Another ASGI server")
    with unless_pip_reaches_nothing():
        farm.follow(install)
    [command] = re.findall(r"^```\n(\S+python -m uvicorn .*)\n```$", page.TEXT, re.MULTILINE)
    port = str(farm.spare)
    words = shlex.split(farm.here(command).replace("9822", port))
    with (tmp_path / "log").open("wb") as log:
        served = subprocess.Popen(
            words, env=farm.people() | farm.settings(), stdout=log, stderr=log, cwd="/"
        )
    try:
        url = f"http://localhost:{port}"
        until(lambda: answers(f"{url}/sign-in"))
        with ExitStack() as waits, watching(farm, url) as watch:
            waits.enter_context(held(http, "gpu-1"))
            watcher = watch(submit(http, each=3))
            waits.close()
            kinds = [frame["type"] for frame in ended(watcher)]
        assert kinds.count("child_completed") >= 3
        assert "child_progress" in kinds
    finally:
        served.terminate()
        served.wait(60)


# --- backup and restore
# -----------------------------------------------------------------------------


def attempted(farm: Machine, database: str, group_id: str) -> set[str]:
    with farm.database.connect(database) as connection:
        rows = connection.execute(
            "SELECT DISTINCT child_id FROM jobgroups_attempt JOIN jobgroups_childjob c"
            " ON c.id = child_id WHERE c.group_id = %s",
            [group_id],
        ).fetchall()
    return {job for (job,) in rows}


def test_move_to_another_database_doubles_nothing_if_the_runners_stop_first(
    farm: Machine, gpus: Machines, http: httpx.Client
) -> None:
    group_id = submit(http, each=6)
    wait_started(gpus, 3)
    for name in ("director-runner@1", "director-runner@2"):
        farm.systemd.control(["stop", name])
    [backup], [restore] = page.of("Backup"), page.of("Restore")
    assert "TABLE DATA public jobgroups_attempt" in farm.follow(backup)
    assert (farm.root / "var/backups/director/files/runners").is_dir()
    gpus.wait_idle()
    farm.follow(restore)
    assert farm.settings()["DIRECTOR_DATABASE_URL"].endswith("/director_restored")
    group = wait_complete(http, group_id)
    assert group["total_count"] == 12
    assert set(renders(gpus, [child["job_id"] for child in group["child_jobs"]]).values()) == {1}


def test_after_a_disaster_only_jobs_that_the_dump_does_not_contain_are_repeated(
    farm: Machine, gpus: Machines, http: httpx.Client
) -> None:
    """The dump is made under load. The farm continues, and is killed later."""
    [backup], [restore] = page.of("Backup"), page.of("Restore")
    group_id = submit(http, each=10)
    wait_started(gpus, 4)
    farm.follow(backup, **{"custom director ": "custom director_restored "})
    wait_started(gpus, 5)
    for unit in farm.systemd.units.values():
        if unit.runs:
            unit.kill()
    away = http.get("/api/health")
    assert (away.status_code, away.json()["code"]) == (502, "unavailable")
    farm.follow(restore, director_restored="director_again")
    group = wait_complete(http, group_id)
    assert group["total_count"] == 20
    times = renders(gpus, [child["job_id"] for child in group["child_jobs"]])
    # The dump contains the jobs with an attempt at its time.
    dump = max((farm.root / "var/backups/director").glob("*.dump"))
    known = _attempted_in(farm, dump, group_id)
    assert len(known) >= 4
    assert {times[job] for job in known} == {1}, "a job in progress was repeated"
    assert set(times.values()) <= {1, 2}


def _attempted_in(farm: Machine, dump: Path, group_id: str) -> set[str]:
    farm.database.create("looked_at")
    environment = farm.environment
    subprocess.run(
        ["pg_restore", "--no-owner", "--dbname=looked_at", dump], env=environment, check=True
    )
    return attempted(farm, "looked_at", group_id)


def captured_files(served: Served, group_id: str) -> list[str]:
    """Return the addresses of the files of a group that are in the storage."""
    return [
        file["file_url"]
        for child in served.group(group_id)["child_jobs"]
        for file in (child["outputs"] or {"images": []})["images"]
        if file["captured"]
    ]


def test_sqlite_is_backed_up_while_it_is_used(
    farm: Machine, gpus: Machines, tmp_path: Path
) -> None:
    backup, restore = page.of("SQLite")
    served = Served(tmp_path, gpus.urls)
    try:
        served.wait_online()
        group_id = served.submit(picture(), gpus.ids * 10)
        wait_started(gpus, 3)
        [captured, *_] = until(lambda: captured_files(served, group_id))
        farm.follow(backup, **{"~/.local/share/comfyui-director": str(served.data)})
        wait_started(gpus, 2)
        served.kill()
        farm.follow(restore)
        data = farm.root / "home/restored"
        with closing(sqlite3.connect(data / "director.sqlite3")) as database:
            rows = database.execute("SELECT DISTINCT child_id FROM jobgroups_attempt").fetchall()
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        known = {job for (job,) in rows}
        served.start(DIRECTOR_DATA_DIR=str(data))
        assert served.ask("GET", captured).status_code == 200
        for secret in ("secret-key", "webhook-secret"):
            assert (data / secret).read_text() == (served.data / secret).read_text()
        group = served.wait_ended(group_id)
        assert group["status"] == "completed"
        times = renders(gpus, [child["job_id"] for child in group["child_jobs"]])
        assert len(known) >= 3
        assert {times[job] for job in known} == {1}, "a job in progress was repeated"
    finally:
        served.close()


# --- while it runs
# ----------------------------------------------------------------------------------


def test_health_and_logs_also_while_postgresql_is_unavailable(
    farm: Machine, http: httpx.Client
) -> None:
    [alive], [logs] = page.of("Health"), page.of("Logs")
    assert "Runner" in farm.follow(logs)
    farm.database.stop()
    try:
        farm.follow(alive)
        health = http.get("/api/health")
        assert health.status_code == 503
        assert health.json()["checks"]["database"]["status"] == "down"
    finally:
        farm.database.start()
    # The restart fails the first request of each web.
    webs = [f"http://localhost:{port}/api/backends" for port in farm.webs]
    until(
        lambda: all(
            httpx.get(web, headers=http.headers, trust_env=False).is_success for web in webs
        )
    )
    farm.wait_healthy(http)


def test_what_to_do_when_is_done(farm: Machine, http: httpx.Client) -> None:
    token = farm.settings()["DIRECTOR_TOKEN"]
    assert http.post("/api/backends/gpu-1/pause").status_code == 200
    try:
        group_id = submit(http, each=2)
        [job, _] = children(http, group_id, "gpu-1")
        for block in page.of("What to do when"):
            farm.follow(block, **{_GROUP: group_id, _JOB: job})
        assert http.get("/api/health").status_code == 401, "the old token is still valid"
        assert farm.settings()["DIRECTOR_TOKEN"] != token
    finally:
        with farm.client() as again:
            again.post("/api/backends/gpu-1/resume")
    with farm.client() as again:
        farm.wait_healthy(again)
        assert children(again, group_id, "gpu-1")[job] == "cancelled"
        _try_admin(farm, again)


def children(http: httpx.Client, group_id: str, backend: str) -> dict[str, str]:
    found = http.get(f"/api/job-groups/{group_id}").json()["child_jobs"]
    return {one["job_id"]: one["status"] for one in found if one["backend_id"] == backend}


def _try_admin(farm: Machine, http: httpx.Client) -> None:
    """Log in to the admin under the studio's name: the form passes the CSRF check."""
    name = {"extensions": {"sni_hostname": NAME}}
    form = http.get("/admin/login/", headers={"Host": NAME}, **name)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
    assert token is not None
    answer = http.post(
        "/admin/login/",
        data={"csrfmiddlewaretoken": token[1], "username": "ada", "password": "wrong"},
        headers={
            "Host": NAME,
            "Origin": f"https://{NAME}",
            "Referer": f"https://{NAME}/admin/login/",
            "Cookie": form.headers["Set-Cookie"].partition(";")[0],
        },
        **name,
    )
    assert answer.status_code == 200
    assert "Please enter the correct username and password" in answer.text


def test_old_groups_are_purged_by_the_command_and_by_the_timer(
    farm: Machine, http: httpx.Client
) -> None:
    by_hand, by_night = page.of("Purge")
    for block, text in ((by_hand, "Deleted 1 group"), (by_night, "")):
        group_id = submit(http, each=1)
        wait_complete(http, group_id)
        database = farm.settings()["DIRECTOR_DATABASE_URL"].rpartition("/")[2]
        with farm.database.connect(database) as connection:
            connection.execute(
                "UPDATE jobgroups_jobgroup SET created_at = now() - interval '91 days',"
                " completed_at = now() - interval '91 days' WHERE id = %s",
                [group_id],
            )
        assert text in farm.follow(block)
        assert http.get(f"/api/job-groups/{group_id}").status_code == 404
    assert "director-purge.timer" in farm.systemd.enabled
    assert "Deleted 1 group" in farm.systemd.unit("director-purge").printed()
