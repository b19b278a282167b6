"""Accounts as their users have them: from the code in the log to a program's token, and its end."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Origin

from director.client import Director
from director.client.errors import DirectorError
from tests.cli.conftest import in_this_process
from tests.harness.graphs import picture
from tests.harness.machines import Machines
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import ROOT, Served, settings_of
from tests.harness.servers import needs_servers
from tests.harness.waits import until

PASSWORD = "a quiet harbour"
GPUS = {"count": 1, "seconds": 300.0}
WITHIN = 5.0  #: Seconds from a revocation to the end of what its token has open.


@pytest.mark.parametrize("processes", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_from_the_first_administrator_to_a_token(tmp_path: Path, processes: str) -> None:
    director = Served(
        tmp_path,
        arguments=["--port", "0", "--processes", processes],
        environment={"DIRECTOR_ACCOUNTS": "1"},
    )
    try:
        # The child prints it about when the parent prints that it is ready.
        until(lambda: "/sign-in/first/" in director.printed())
        code = re.findall(r"(/sign-in/first/\S+)", director.printed())[0]
        with httpx.Client(
            base_url=director.url, headers={"origin": director.url}, trust_env=False, timeout=60
        ) as vera:
            assert vera.get("/api/job-groups").status_code == 401
            form = {"name": "vera", "password": PASSWORD, "again": PASSWORD}
            assert vera.post(code, data=form).headers["location"] == "/"
            assert vera.get("/people").status_code == 200
            anna = vera.post("/api/people", json={"name": "anna", "role": "artist"}).json()
            assert anna["password_link"].startswith(f"{director.url}/sign-in/password/")
        variables = settings_of(tmp_path, environment={"DIRECTOR_ACCOUNTS": "1"})
        command = [
            sys.executable,
            "manage.py",
            "tokens",
            "create",
            "anna",
            "--scope",
            "submit",
            "--name",
            "nightly",
        ]
        made = subprocess.run(
            command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
        token = made.stdout.splitlines()[-1]
        with Director(director.url, token=token) as client:
            assert client.whoami().name == "anna"
            own = client.tokens.create("reader", "read")
        with Director(director.url, token=token) as client:
            # The first request with this token: nothing is known of it before the headers.
            fresh = client.tokens.create("uploads", "submit").token
        with Director(director.url, token=fresh) as client:
            large = tmp_path / "large.bin"
            large.write_bytes(bytes(3 * 2**20))
            assert client.assets.upload(large).size_bytes == 3 * 2**20
        with Director(director.url, token=token) as client:
            fresh = client.tokens.create("bodies", "submit").token
        with Director(director.url, token=fresh) as client, pytest.raises(DirectorError) as error:
            client.submit({"1": {"class_type": "x" * 300_000, "inputs": {}}}, count=1)
        assert error.value.status in (400, 409, 503)
        assert _refusal_before_body(director.url, own.token).startswith(b"HTTP/1.1 403 ")
        _check_login(director.url, token, tmp_path)
        words = ["tokens", "create", "bot", "--scope", "read", "--days", "3"]
        variables = {"DIRECTOR_URL": director.url, "DIRECTOR_TOKEN": token}
        made = in_this_process(words, tmp_path, variables)
        with Director(director.url, token=made.stdout.splitlines()[-1]) as client:
            assert client.whoami().right == "see"
            client.tokens.revoke(client.whoami().token_id or "")
        with Director(director.url, token=token) as client:
            assert [one.name for one in client.tokens.list()] == [
                "bodies",
                "uploads",
                "reader",
                "nightly",
            ]
        socket = f"{director.url.replace('http', 'ws')}/ws/monitor"
        with connect(
            socket, additional_headers={"Authorization": f"Bearer {own.token}"}, proxy=None
        ) as stream:
            assert json.loads(stream.recv(timeout=30))["type"] != "error"
        with Director(director.url, token=token) as client:
            client.tokens.revoke(own.id)
        until(lambda: _is_refused(socket, own.token))
    finally:
        assert director.stop() == 0
    assert token not in director.printed()


def _refusal_before_body(url: str, token: str) -> bytes:
    """Return what answers an upload of which no byte of the body is sent."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0
    head = (
        f"POST /api/assets HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n"
    )
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(head.encode())
        return connection.recv(65_536)


def _check_login(url: str, token: str, folder: Path) -> None:
    """The token of ``director login`` is sent to its own Director alone, until ``logout``."""
    config = {
        "XDG_CONFIG_HOME": str(folder / "config"),
        "HOME": str(folder),
        "APPDATA": str(folder),
    }

    def run(*words: str, sent: str = "", to: str = url) -> subprocess.CompletedProcess[str]:
        return in_this_process(words, folder, config | {"DIRECTOR_URL": to}, sent)

    assert "director login" in run("whoami").stderr
    assert run("login", sent="dt_wrong\n").returncode == 4
    assert not list(folder.rglob("tokens.json"))
    stored = run("login", sent=f"{token}\n")
    assert "anna" in stored.stdout
    assert token not in stored.stdout
    assert run("whoami").stdout.startswith("anna: artist")
    assert "needs a token" in run("whoami", to=url.replace("localhost", "127.0.0.1")).stderr
    assert "removed" in run("logout").stdout
    assert run("whoami").returncode == 4


def _is_refused(url: str, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    with connect(url, additional_headers=headers, proxy=None) as stream:
        return json.loads(stream.recv(timeout=30)).get("code") == "sign_in_required"


# --- a revocation ends what is open
# -----------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_revoked_credentials_end_all_that_is_open(tmp_path: Path, gpus: Machines) -> None:
    director = Served(
        tmp_path,
        gpus.urls,
        arguments=["--port", "0", "--processes", "3"],
        environment={"DIRECTOR_ACCOUNTS": "1"},
    )
    try:
        until(lambda: "/sign-in/first/" in director.printed())
        asyncio.run(check_ends([director], gpus.ids))
    finally:
        assert director.stop() == 0


@needs_servers
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_revoked_credentials_end_all_that_is_open_at_every_web(
    tmp_path: Path, gpus: Machines, settings: dict[str, str]
) -> None:
    farm = ProcessFarm(tmp_path, gpus, DIRECTOR_ACCOUNTS="1", **settings)
    try:
        farm.web.start()
        farm.runner("gpu-room")
        until(lambda: "/sign-in/first/" in farm.web.printed())
        asyncio.run(check_ends([farm.web, farm.another_web()], gpus.ids))
    finally:
        farm.close()


async def check_ends(webs: list[Served], backend_ids: list[str]) -> None:
    """Revoke a token, let one expire, disable a person: each ends what it has open at all webs."""
    code = re.findall(r"(/sign-in/first/\S+)", webs[0].printed())[0]
    form = {"password": PASSWORD, "again": PASSWORD}
    async with client_of(webs[0]) as vera, client_of(webs[0]) as anna, asyncio.TaskGroup() as tasks:
        await vera.post(code, data={"name": "vera", **form})
        person = await vera.post("/api/people", json={"name": "anna", "role": "artist"})
        await anna.post(person.json()["password_link"], data=form)
        group = await submitted(anna, backend_ids=backend_ids)
        job = await submitted(anna, backend_ids=["*"], count=1)
        opened = partial(Opened, tasks, webs, group, job)

        token = await token_of(anna)
        revoked, kept = (
            opened(bearer(token["token"])),
            opened(bearer((await token_of(vera))["token"])),
        )
        began = time.monotonic()
        await revoked.wait_open()
        await kept.wait_open()
        took = time.monotonic() - began

        # All is open before the token expires, which it does during the other ends.
        expires_at = datetime.now(UTC) + timedelta(seconds=5 + 5 * took)
        expiring = await token_of(vera, expires_at=expires_at.isoformat())
        expired = opened({}, token=expiring["token"])
        await expired.wait_open()
        assert (await anna.delete(f"/api/tokens/{token['id']}")).status_code == 204
        await revoked.check_ended(time.monotonic())

        disabled = opened({"Cookie": f"director_session={anna.cookies['director_session']}"})
        await disabled.wait_open()
        await vera.patch("/api/people/anna", json={"is_active": False})
        await disabled.check_ended(time.monotonic())
        left = expires_at - datetime.now(UTC)
        await expired.check_ended(time.monotonic() + left.total_seconds())
        kept.close_all_open()
    assert not [web for web in webs if expiring["token"] in web.printed()]


def client_of(web: Served) -> httpx.AsyncClient:
    headers = {"origin": web.url}
    return httpx.AsyncClient(base_url=web.url, headers=headers, trust_env=False, timeout=90)


async def submitted(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post("/api/job-group", json={"workflow_json": picture(), **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_group_id"])


async def token_of(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/api/tokens", json={"name": "a", "scope": "read", **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Opened:
    """Two sockets, two event streams and a long poll, at each web, with the same credentials.

    ``token`` is sent in the URLs.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        webs: list[Served],
        group: str,
        job: str,
        headers: dict[str, str],
        token: str = "",
    ) -> None:
        self._headers = headers
        self._query = f"token={token}" if token else ""
        self._open = 0
        #: The reason of each end, and when it came.
        self._tasks: list[asyncio.Task[tuple[str, float]]] = []
        for web in webs:
            for path in ("/ws/monitor", f"/ws/job-groups/{group}"):
                self._tasks.append(tasks.create_task(self._socket(web, path)))
            for path in (f"job-groups/{group}/events/stream", f"v2/jobs/{job}/events"):
                self._tasks.append(tasks.create_task(self._stream(web, f"/api/{path}")))
            self._tasks.append(tasks.create_task(self._poll(web, f"/api/job-groups/{job}")))

    async def wait_open(self) -> None:
        async with asyncio.timeout(60):
            while self._open < len(self._tasks):
                await asyncio.sleep(0.05)

    async def check_ended(self, revoked_at: float) -> None:
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*self._tasks)
        assert {reason for reason, _ in ends} == {"sign_in_required"}
        assert max(moment for _, moment in ends) - revoked_at < WITHIN

    def close_all_open(self) -> None:
        """End what is still open, which must be all."""
        assert not any(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()

    async def _socket(self, web: Served, path: str) -> tuple[str, float]:
        url = f"{web.url.replace('http', 'ws')}{path}?{self._query}"
        async with connect_async(
            url, additional_headers=self._headers, origin=Origin(web.url), proxy=None
        ) as socket:
            frame = json.loads(await socket.recv())
            self._open += 1
            try:
                while True:
                    frame = json.loads(await socket.recv())
            except ConnectionClosed as closed:
                is_signed_out = closed.rcvd is not None and closed.rcvd.code == 4401
                return frame["code"] if is_signed_out else str(closed), time.monotonic()

    async def _stream(self, web: Served, path: str) -> tuple[str, float]:
        last = ""
        async with (
            client_of(web) as client,
            client.stream("GET", f"{path}?{self._query}", headers=self._headers) as stream,
        ):
            async for line in stream.aiter_lines():
                self._open += not last
                last = line or last
        return json.loads(last.removeprefix("data: "))["code"], time.monotonic()

    async def _poll(self, web: Served, path: str) -> tuple[str, float]:
        async with client_of(web) as client:
            # An event, or the end of the longest wait, may come in between.
            while True:
                head = await client.get(f"{path}?children=0&{self._query}", headers=self._headers)
                asking = asyncio.create_task(
                    client.get(
                        f"{path}?children=0&wait=60&since={head.json()['seq']}&{self._query}",
                        headers=self._headers,
                    )
                )
                self._open += 1
                answer = await asking
                if answer.status_code == 401:
                    return answer.json()["code"], time.monotonic()
                self._open -= 1
